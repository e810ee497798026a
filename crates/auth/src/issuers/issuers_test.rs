use serde_json::json;

use crate::testing::{
    RSA_PRIVATE, RSA_PUBLIC, SHORT_RSA_PUBLIC, Stage, authenticate, claims, sign,
};

const ISSUER: &str = "[[issuer]]\nissuer = \"a\"\naudience = \"pushonce\"\n";

/// A stage with the key files that the tests name.
fn stage() -> Stage {
    let stage = Stage::new();
    stage.write("rsa.pem", RSA_PUBLIC);
    stage.write("private.pem", RSA_PRIVATE);
    stage.write("short.pem", SHORT_RSA_PUBLIC);
    stage.write("secret", "0123456789abcdef0123456789abcdef\n");
    stage.write("short", "0123456789abcdef");
    stage
}

fn error(stage: &Stage, content: &str) -> String {
    stage.write_issuers(content);
    stage.load().expect_err("the file is refused").to_string()
}

#[test]
fn missing_or_malformed_file_is_refused_and_never_means_that_everything_is_allowed() {
    let stage = stage();
    let missing = stage.load().unwrap_err().to_string();
    assert!(missing.contains("issuers.toml: cannot read the file"), "{missing}");
    assert!(error(&stage, "").contains("names no issuer"));
    assert!(error(&stage, "issuer = []").contains("names no issuer"));
    assert!(error(&stage, "\n\nx").contains("line 3"));
    let unknown = error(&stage, &format!("{ISSUER}audiense = \"secret\"\njwks = \"x\""));
    assert!(unknown.contains("line 4") && unknown.contains("audiense"), "{unknown}");
    assert!(!unknown.contains("secret"), "{unknown}");
}

#[test]
fn each_mistake_is_refused_with_issuer_key_and_remedy() {
    let stage = stage();
    let key = |text: &str| format!("{ISSUER}[[issuer.key]]\n{text}");
    let two = |text: &str| key(&format!("{text}[[issuer.key]]\n{text}"));
    let rsa = "algorithm = \"RS256\"\nfile = \"rsa.pem\"\n";
    for (content, hint) in [
        (ISSUER.to_owned(), "set exactly one of `jwks`, `jwks-file` and [[issuer.key]]"),
        (format!("{ISSUER}jwks = \"https://x\"\njwks-file = \"f\""), "set exactly one of"),
        (ISSUER.replace("\"a\"", "\"\"") + "jwks = \"https://x\"", "`issuer` must not be empty"),
        (format!("{0}jwks = \"https://x\"\n{0}jwks = \"https://x\"", ISSUER), "another table"),
        (format!("{ISSUER}jwks = \"http://issuer.example/keys\""), "must use https"),
        (format!("{ISSUER}jwks = \"https://u:p@issuer.example/keys\""), "user name"),
        (format!("{ISSUER}jwks = \"keys\""), "not a URL"),
        (format!("{ISSUER}jwks = \"https://x\"\nalgorithms = [\"none\"]"), "\"none\""),
        (format!("{ISSUER}jwks = \"https://x\"\nalgorithms = [\"HS256\"]"), "HS256"),
        (format!("{ISSUER}jwks-file = \"absent\""), "absent"),
        (format!("{ISSUER}jwks-file = \"rsa.pem\""), "array `keys`"),
        // Secrets in the wrong place.
        (format!("{ISSUER}key = \"0123456789abcdef\""), "line 4: invalid type: string"),
        (format!("{ISSUER}key = [\"a\\\"0123456789abcdef\"]"), "line 4: invalid type: string"),
        (key("algorithm = \"RS256\"\n"), "set exactly one of `public-key`"),
        (key("algorithm = \"none\"\nfile = \"rsa.pem\"\n"), "\"none\""),
        (key("algorithm = \"RS256\"\nfile = \"absent.pem\"\n"), "absent.pem"),
        (key("algorithm = \"ES256\"\nfile = \"rsa.pem\"\n"), "key is for RS256"),
        (key("algorithm = \"RS256\"\nfile = \"private.pem\"\n"), "private key"),
        (key("algorithm = \"RS256\"\nfile = \"short.pem\"\n"), "1024 bits"),
        (key("algorithm = \"HS256\"\nfile = \"rsa.pem\"\n"), "no public key"),
        (key("algorithm = \"HS256\"\npublic-key = \"x\"\n"), "no public key"),
        (key("algorithm = \"RS256\"\npublic-key = \"x\"\n"), "public-key: "),
        (key(&format!("{rsa}public-key = \"x\"\n")), "set exactly one of"),
        (key("algorithm = \"RS256\"\nsecret-file = \"secret\"\n"), "for HS256"),
        (key("algorithm = \"HS256\"\nsecret-file = \"short\"\n"), "16 bytes"),
        (key("algorithm = \"HS256\"\nsecret-env = \"ABSENT\"\n"), "ABSENT is not set"),
        (two(rsa), "there is another key"),
        (two(&format!("id = \"k\"\n{rsa}")), "key \"k\": there is another key"),
        (
            key(rsa).replace("audience", "algorithms = [\"EdDSA\"]\naudience"),
            "RS256 is not one of `algorithms`",
        ),
    ] {
        let error = error(&stage, &content);
        assert!(error.contains(hint) && error.contains("issuers.toml"), "{content}\n{error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
    }
}

#[test]
fn public_key_is_in_the_issuers_file_or_in_a_file_of_its_own() {
    for source in ["public-key", "file"] {
        let pair = crate::testing::key_pair(crate::Algorithm::EdDsa);
        let (stage, _) = Stage::with_key(&pair);
        let key = if source == "file" { "\"key\"".to_owned() } else { format!("{:?}", pair.file) };
        let key = format!("[[issuer.key]]\nalgorithm = \"EdDSA\"\n{source} = {key}\n");
        stage.write_issuers(&format!("{ISSUER}{key}"));
        let token = sign(&pair, None, &claims(json!({})));
        assert!(authenticate(&stage.load().unwrap(), &token).is_ok(), "{source}");
    }
}

#[test]
fn secret_comes_from_a_file_without_its_line_break_or_from_a_variable() {
    let stage = stage();
    let secret = "0123456789abcdef0123456789abcdef";
    let pair = crate::testing::KeyPair {
        signing: crate::SigningKey::from_secret(secret.as_bytes()).unwrap(),
        file: String::new(),
    };
    let token = sign(&pair, None, &claims(json!({})));
    for source in ["secret-file = \"secret\"", "secret-env = \"TOKEN_SECRET\""] {
        stage.write_issuers(&format!("{ISSUER}[[issuer.key]]\nalgorithm = \"HS256\"\n{source}\n"));
        let variable = |name: &str| (name == "TOKEN_SECRET").then(|| secret.to_owned());
        let authenticator = stage.load_with(variable).unwrap();
        assert!(authenticate(&authenticator, &token).is_ok(), "{source}");
    }
}
