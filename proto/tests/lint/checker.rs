//! The STANDARD rules of `buf lint` on descriptors, under their names in buf, and one additional rule,
//! `FIELD_NOT_KEYWORD`.
//!
//! Rules that these files cannot break are omitted: options of languages (`PACKAGE_SAME_*`), protobuf 2
//! (`FIELD_NOT_REQUIRED`, `ENUM_FIRST_VALUE_ZERO`, which the compiler enforces in protobuf 3) and
//! `PROTOVALIDATE`. Packages cannot import each other in a cycle while each is one file.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// Reserved words of Python and JavaScript that are plausible field names. Python can access a field with
/// such a name only through `getattr`.
const KEYWORDS: [&str; 14] = [
    "as", "class", "continue", "def", "del", "from", "global", "import", "in", "is", "lambda",
    "new", "pass", "return",
];

/// One element of a file breaks one rule.
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    file: String,
    element: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { rule, file, element } = self;
        write!(f, "{file}: {element} breaks {rule}")
    }
}

/// Every violation in the files of the set, except those that a comment ignores.
pub(crate) fn violations(set: &FileDescriptorSet) -> Vec<Violation> {
    let uses = count_rpc_types(set);
    let mut found = Vec::new();
    for file in &set.file {
        let ignored = ignored_in(file).collect();
        let mut linter = Linter { file, ignored, uses: &uses, found: &mut found };
        linter.check_file();
    }
    found
}

/// The rules that comments ignore, each with its RPC.
pub(crate) fn ignored_rules(set: &FileDescriptorSet) -> Vec<(String, String)> {
    let all: BTreeSet<_> = set.file.iter().flat_map(ignored_in).collect();
    all.into_iter().collect()
}

/// How often each message is the request or the response of an RPC.
fn count_rpc_types(set: &FileDescriptorSet) -> HashMap<&str, usize> {
    let mut uses = HashMap::new();
    let services = set.file.iter().flat_map(|file| &file.service);
    for rpc in services.flat_map(|service| &service.method) {
        *uses.entry(rpc.input_type()).or_default() += 1;
        *uses.entry(rpc.output_type()).or_default() += 1;
    }
    uses
}

/// The full name of the RPC and the rule, for each comment `buf:lint:ignore RULE` before an RPC.
fn ignored_in(file: &FileDescriptorProto) -> impl Iterator<Item = (String, String)> {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations.flat_map(move |location| {
        // Service number `service` of the file, its method number `method`.
        let &[6, service, 2, method] = &location.path[..] else { return Vec::new() };
        let service = &file.service[usize::try_from(service).expect("a valid index")];
        let rpc = &service.method[usize::try_from(method).expect("a valid index")];
        let name = format!("{}.{}.{}", file.package(), service.name(), rpc.name());
        let lines = location.leading_comments().lines();
        let rules = lines.filter_map(|line| line.trim().strip_prefix("buf:lint:ignore "));
        rules.map(|rule| (name.clone(), rule.to_owned())).collect()
    })
}

struct Linter<'a> {
    file: &'a FileDescriptorProto,
    ignored: HashSet<(String, String)>,
    uses: &'a HashMap<&'a str, usize>,
    found: &'a mut Vec<Violation>,
}

impl Linter<'_> {
    /// Records a violation of `rule` by `element` unless `holds`.
    fn check(&mut self, holds: bool, rule: &'static str, element: &str) {
        let key = (format!("{}.{element}", self.file.package()), rule.to_owned());
        if !holds && !self.ignored.contains(&key) {
            let (file, element) = (self.file.name().to_owned(), element.to_owned());
            self.found.push(Violation { rule, file, element });
        }
    }

    fn check_file(&mut self) {
        let file = self.file;
        let (directory, name) = file.name().rsplit_once('/').unwrap_or(("", file.name()));
        let stem = name.strip_suffix(".proto").unwrap_or(name);
        self.check(is_lower_snake(stem), "FILE_LOWER_SNAKE_CASE", name);
        self.check(file.syntax() == "proto3", "SYNTAX_SPECIFIED", name);
        self.check_package(directory);
        self.check(file.public_dependency.is_empty(), "IMPORT_NO_PUBLIC", name);
        let references = type_references(file);
        for import in &file.dependency {
            // The package of a file is its directory, which PACKAGE_DIRECTORY_MATCH checks.
            let package = import.rsplit_once('/').map_or("", |(directory, _)| directory);
            let prefix = format!(".{}.", package.replace('/', "."));
            let is_used = references.iter().any(|name| name.starts_with(&prefix));
            self.check(is_used, "IMPORT_USED", import);
        }
        file.enum_type.iter().for_each(|kind| self.check_enum("", kind));
        file.message_type.iter().for_each(|message| self.check_message("", message));
        file.service.iter().for_each(|service| self.check_service(service));
    }

    fn check_package(&mut self, directory: &str) {
        let package = self.file.package();
        if package.is_empty() {
            return self.check(false, "PACKAGE_DEFINED", "the file");
        }
        self.check(package.replace('.', "/") == directory, "PACKAGE_DIRECTORY_MATCH", package);
        let is_snake = package.split('.').all(is_lower_snake);
        self.check(is_snake, "PACKAGE_LOWER_SNAKE_CASE", package);
        let version = package.rsplit('.').next().and_then(|last| last.strip_prefix('v'));
        let is_version = version.is_some_and(|number| number.parse::<u32>().is_ok());
        self.check(is_version, "PACKAGE_VERSION_SUFFIX", package);
    }

    fn check_enum(&mut self, scope: &str, kind: &EnumDescriptorProto) {
        let element = format!("{scope}{}", kind.name());
        self.check(is_pascal(kind.name()), "ENUM_PASCAL_CASE", &element);
        let has_alias = kind.options.as_ref().is_some_and(|options| options.allow_alias());
        self.check(!has_alias, "ENUM_NO_ALLOW_ALIAS", &element);
        let prefix = format!("{}_", upper_snake(kind.name()));
        for (index, value) in kind.value.iter().enumerate() {
            let (name, element) = (value.name(), format!("{element}.{}", value.name()));
            self.check(is_upper_snake(name), "ENUM_VALUE_UPPER_SNAKE_CASE", &element);
            self.check(name.starts_with(&prefix), "ENUM_VALUE_PREFIX", &element);
            let is_zero = value.number() == 0 && index == 0;
            let has_suffix = name.ends_with("_UNSPECIFIED");
            self.check(!is_zero || has_suffix, "ENUM_ZERO_VALUE_SUFFIX", &element);
        }
    }

    fn check_message(&mut self, scope: &str, message: &DescriptorProto) {
        if message.options.as_ref().is_some_and(|options| options.map_entry()) {
            return;
        }
        let element = format!("{scope}{}", message.name());
        self.check(is_pascal(message.name()), "MESSAGE_PASCAL_CASE", &element);
        for field in &message.field {
            let (name, element) = (field.name(), format!("{element}.{}", field.name()));
            self.check(is_lower_snake(name), "FIELD_LOWER_SNAKE_CASE", &element);
            self.check(!KEYWORDS.contains(&name), "FIELD_NOT_KEYWORD", &element);
        }
        for oneof in &message.oneof_decl {
            // The compiler generates `_name` for an `optional` field.
            let name = oneof.name().trim_start_matches('_');
            self.check(
                is_lower_snake(name),
                "ONEOF_LOWER_SNAKE_CASE",
                &format!("{element}.{name}"),
            );
        }
        let scope = format!("{element}.");
        message.enum_type.iter().for_each(|kind| self.check_enum(&scope, kind));
        message.nested_type.iter().for_each(|nested| self.check_message(&scope, nested));
    }

    fn check_service(&mut self, service: &ServiceDescriptorProto) {
        let name = service.name();
        self.check(is_pascal(name), "SERVICE_PASCAL_CASE", name);
        self.check(name.ends_with("Service"), "SERVICE_SUFFIX", name);
        for rpc in &service.method {
            let element = format!("{name}.{}", rpc.name());
            self.check(is_pascal(rpc.name()), "RPC_PASCAL_CASE", &element);
            let (input, output) = (rpc.input_type(), rpc.output_type());
            let is_unique = [input, output].iter().all(|kind| self.uses[kind] == 1);
            self.check(is_unique, "RPC_REQUEST_RESPONSE_UNIQUE", &element);
            for (kind, word, rule) in [
                (input, "Request", "RPC_REQUEST_STANDARD_NAME"),
                (output, "Response", "RPC_RESPONSE_STANDARD_NAME"),
            ] {
                let kind = kind.rsplit('.').next().unwrap_or(kind).to_lowercase();
                let short = format!("{}{word}", rpc.name()).to_lowercase();
                let long = format!("{name}{short}").to_lowercase();
                self.check(kind == short || kind == long, rule, &element);
            }
        }
    }
}

/// The full names of all types that fields and RPCs of the file refer to.
fn type_references(file: &FileDescriptorProto) -> Vec<&str> {
    let mut references = Vec::new();
    for rpc in file.service.iter().flat_map(|service| &service.method) {
        references.extend([rpc.input_type(), rpc.output_type()]);
    }
    let mut messages: Vec<_> = file.message_type.iter().collect();
    while let Some(message) = messages.pop() {
        references.extend(message.field.iter().filter_map(|field| field.type_name.as_deref()));
        messages.extend(&message.nested_type);
    }
    references
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric())
}

fn is_lower_snake(name: &str) -> bool {
    is_snake(name, |c| c.is_ascii_lowercase())
}

fn is_upper_snake(name: &str) -> bool {
    is_snake(name, |c| c.is_ascii_uppercase())
}

fn is_snake(name: &str, is_letter: impl Fn(char) -> bool) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| is_letter(c) || c.is_ascii_digit());
    name.starts_with(&is_letter) && name.split('_').all(is_word)
}

/// `PublishRejection` as `PUBLISH_REJECTION`.
fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}
