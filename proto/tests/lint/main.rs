//! Checks the `.proto` files against the STANDARD rules of `buf lint`, without buf, on their descriptors. As in buf, the comment `buf:lint:ignore RULE` in a file disables a rule.

mod checker;

use checker::{Violation, violations};
use prost_types::FileDescriptorSet;
use protox::file::{File, FileResolver};

/// One `.proto` file in memory.
struct Source(&'static str, String);

impl FileResolver for Source {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match name {
            "acme/other/v1/other.proto" => File::from_source(name, OTHER),
            name if name == self.0 => File::from_source(name, &self.1),
            name => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// The source of a file that the others import.
const OTHER: &str = "syntax = 'proto3'; package acme.other.v1; message Used {}";

const PATH: &str = "acme/v1/file.proto";

/// The rules that `source` breaks, compiled as `path`.
fn broken_rules(path: &'static str, source: &str) -> Vec<&'static str> {
    let mut compiler = protox::Compiler::with_file_resolver(Source(path, source.to_owned()));
    compiler.include_source_info(true);
    compiler.open_file(path).expect("the source compiles");
    violations(&compiler.file_descriptor_set()).into_iter().map(|found| found.rule).collect()
}

/// The rules that the body of a file breaks if its package and path are valid.
fn rules_broken_by(body: &str) -> Vec<&'static str> {
    broken_rules(PATH, &format!("syntax = 'proto3'; package acme.v1; {body}"))
}

/// The descriptors of all files.
fn contracts() -> FileDescriptorSet {
    let files = ["publisher", "cluster", "client", "peer"]
        .map(|package| format!("pushonce/{package}/v1/{package}.proto"));
    protox::compile(files, [env!("CARGO_MANIFEST_DIR")]).expect("the files compile")
}

#[test]
fn proto_files_pass_the_standard_rules() {
    let set = contracts();
    let names: Vec<_> = set.file.iter().map(|file| file.name()).collect();
    for package in ["publisher", "cluster", "client", "peer"] {
        let name = format!("pushonce/{package}/v1/{package}.proto");
        assert!(names.contains(&name.as_str()), "{name} is not checked: {names:?}");
    }
    let found: Vec<String> = violations(&set).iter().map(Violation::to_string).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn rules_are_ignored_for_the_frames_of_a_link_alone() {
    let set = contracts();
    let link = "pushonce.peer.v1.RelayService.Link";
    let expected =
        ["RPC_REQUEST_RESPONSE_UNIQUE", "RPC_REQUEST_STANDARD_NAME", "RPC_RESPONSE_STANDARD_NAME"]
            .map(|rule| (link.to_owned(), rule.to_owned()));
    // Add a row to the table of exceptions in README.md with each new one.
    assert_eq!(checker::ignored_rules(&set), expected);
}

#[test]
fn file_in_order_breaks_no_rule() {
    let broken = rules_broken_by(
        "import 'acme/other/v1/other.proto';
         enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; }
         message GetRequest { acme.other.v1.Used used = 1; optional string name_2 = 2; }
         message GetResponse { oneof answer { Color color = 1; string other = 2; }
                               map<string, Color> by_name = 3; }
         service PaintService { rpc Get(GetRequest) returns (GetResponse); }",
    );
    assert_eq!(broken, [""; 0]);
}

#[test]
fn each_planted_violation_is_found() {
    for (body, rule) in [
        ("enum color { COLOR_UNSPECIFIED = 0; }", "ENUM_PASCAL_CASE"),
        ("enum Color { COLOR_RED = 0; }", "ENUM_ZERO_VALUE_SUFFIX"),
        ("enum Color { COLOR_UNSPECIFIED = 0; RED = 1; }", "ENUM_VALUE_PREFIX"),
        ("enum Color { COLOR_UNSPECIFIED = 0; COLOR_Red = 1; }", "ENUM_VALUE_UPPER_SNAKE_CASE"),
        (
            "enum Color { option allow_alias = true; COLOR_UNSPECIFIED = 0; COLOR_NONE = 0; }",
            "ENUM_NO_ALLOW_ALIAS",
        ),
        ("message A { enum Color { COLOR_RED = 0; } }", "ENUM_ZERO_VALUE_SUFFIX"),
        ("message a {}", "MESSAGE_PASCAL_CASE"),
        ("message A { message b_c {} }", "MESSAGE_PASCAL_CASE"),
        ("message A { string theName = 1; }", "FIELD_LOWER_SNAKE_CASE"),
        ("message A { string from = 1; }", "FIELD_NOT_KEYWORD"),
        ("message A { oneof theKind { string name = 1; } }", "ONEOF_LOWER_SNAKE_CASE"),
        ("service Paint {}", "SERVICE_SUFFIX"),
        ("service paintService {}", "SERVICE_PASCAL_CASE"),
        ("import 'acme/other/v1/other.proto';", "IMPORT_USED"),
        (
            "import public 'acme/other/v1/other.proto'; message A { acme.other.v1.Used used = 1; }",
            "IMPORT_NO_PUBLIC",
        ),
    ] {
        assert_eq!(rules_broken_by(body), [rule], "{body}");
    }
}

#[test]
fn planted_violations_of_rpc_names_are_found() {
    let rpcs = |rpcs: &str| {
        rules_broken_by(&format!(
            "message GetRequest {{}} message GetResponse {{}} message PutResponse {{}} message Pair {{}}
             service PaintService {{ {rpcs} }}"
        ))
    };
    let get = "rpc Get(GetRequest) returns (GetResponse);";
    assert_eq!(rpcs(get), [""; 0]);
    assert_eq!(rpcs("rpc get(GetRequest) returns (GetResponse);"), ["RPC_PASCAL_CASE"]);
    assert_eq!(rpcs("rpc Get(Pair) returns (GetResponse);"), ["RPC_REQUEST_STANDARD_NAME"]);
    assert_eq!(rpcs("rpc Get(GetRequest) returns (Pair);"), ["RPC_RESPONSE_STANDARD_NAME"]);
    let shared = rpcs(&format!("{get} rpc Put(GetRequest) returns (PutResponse);"));
    let unique = "RPC_REQUEST_RESPONSE_UNIQUE";
    assert_eq!(shared, [unique, unique, "RPC_REQUEST_STANDARD_NAME"]);
}

#[test]
fn planted_violations_of_packages_and_paths_are_found() {
    for (path, source, rule) in [
        (PATH, "syntax = 'proto3';", "PACKAGE_DEFINED"),
        (PATH, "syntax = 'proto3'; package acme.v2;", "PACKAGE_DIRECTORY_MATCH"),
        (PATH, "package acme.v1;", "SYNTAX_SPECIFIED"),
        ("acme/file.proto", "syntax = 'proto3'; package acme;", "PACKAGE_VERSION_SUFFIX"),
        ("acMe/v1/file.proto", "syntax = 'proto3'; package acMe.v1;", "PACKAGE_LOWER_SNAKE_CASE"),
        ("acme/v1/File.proto", "syntax = 'proto3'; package acme.v1;", "FILE_LOWER_SNAKE_CASE"),
    ] {
        assert_eq!(broken_rules(path, source), [rule], "{path}: {source}");
    }
}

#[test]
fn comment_that_ignores_a_rule_is_honoured_for_that_rule_alone() {
    let rpc = "message Pair {}
         service PaintService {
           // Both directions are alike.
           // buf:lint:ignore RPC_REQUEST_STANDARD_NAME
           // buf:lint:ignore RPC_REQUEST_RESPONSE_UNIQUE
           rpc Get(stream Pair) returns (stream Pair);
         }";
    assert_eq!(rules_broken_by(rpc), ["RPC_RESPONSE_STANDARD_NAME"]);
}
