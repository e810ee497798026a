use serde_json::{Value, json};

use super::*;
use crate::testing::{RSA_PRIVATE, RSA_PUBLIC, SHORT_RSA_PUBLIC, key_pair};

/// Splits a compact JWS into the signed text and the signature.
fn split(token: &str) -> (&[u8], Vec<u8>) {
    let (signed, signature) = token.rsplit_once('.').expect("two parts");
    (signed.as_bytes(), base64url(signature))
}

fn base64url(text: &str) -> Vec<u8> {
    base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text).expect("valid")
}

fn read(jwk: &Value, algorithm: Algorithm) -> Result<VerificationKey, InvalidKey> {
    VerificationKey::read(jwk.to_string().as_bytes(), algorithm)
}

/// The examples of RFC 7515 (A.1 to A.3) and RFC 8037 (A.4).
#[test]
fn examples_of_the_standards_are_verified() {
    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (algorithm, jwk, token) in [
        (
            Algorithm::Hs256,
            json!({ "kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow" }),
            format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
        ),
        (
            Algorithm::Rs256,
            json!({ "kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" }),
            format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"),
        ),
        (
            Algorithm::Es256,
            json!({ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" }),
            format!("eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"),
        ),
        (
            Algorithm::EdDsa,
            json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg".to_owned(),
        ),
    ] {
        let key = read(&jwk, algorithm).unwrap();
        let (signed, mut signature) = split(&token);
        assert!(key.verify(signed, &signature), "{algorithm}");
        assert!(!key.verify(&signed[1..], &signature), "{algorithm}");
        signature[7] ^= 1;
        assert!(!key.verify(signed, &signature), "{algorithm}");
        assert!(!key.verify(signed, &[]), "{algorithm}");
    }
}

#[test]
fn generated_key_verifies_its_own_signatures_only() {
    for algorithm in Algorithm::ALL {
        let pair = key_pair(algorithm);
        let read = |file: &str| match algorithm {
            Algorithm::Hs256 => VerificationKey::secret(file.as_bytes()),
            _ => VerificationKey::read(file.as_bytes(), algorithm),
        };
        let key = read(&pair.file).unwrap();
        assert_eq!((key.algorithm(), pair.signing.algorithm()), (algorithm, algorithm));
        let signature = pair.signing.sign(b"message").unwrap();
        assert!(key.verify(b"message", &signature) && !key.verify(b"massage", &signature));
        if algorithm != Algorithm::Rs256 {
            let other = read(&key_pair(algorithm).file).unwrap();
            assert!(!other.verify(b"message", &signature));
        }
    }
    let error = SigningKey::generate(Algorithm::Rs256).err();
    assert_eq!(error, Some(SigningError::CannotGenerateRsa));
}

#[test]
fn short_keys_are_refused() {
    let short = InvalidKey::ShortSecret { len: 31 };
    assert_eq!(VerificationKey::secret(&[1; 31]).err(), Some(short.clone()));
    assert_eq!(SigningKey::from_secret(&[1; 31]).err(), Some(short));
    assert!(VerificationKey::secret(&[]).is_err());
    let rsa = VerificationKey::read(SHORT_RSA_PUBLIC.as_bytes(), Algorithm::Rs256);
    assert_eq!(rsa.err(), Some(InvalidKey::RsaSize { bits: 1024 }));
    assert!(VerificationKey::rsa(&[0xff; 1_025], &[1, 0, 1]).is_err(), "8,200 bits");
    for exponent in [&[][..], &[0], &[1], &[2], &[1, 0, 0], &[1, 0, 0, 0, 1]] {
        assert!(VerificationKey::rsa(&[0xff; 256], exponent).is_err(), "{exponent:?}");
    }
    // A modulus of 256 bytes can have fewer bits than 2,048.
    let small: Vec<u8> = [vec![0x7f], vec![0xff; 255]].concat();
    assert_eq!(
        VerificationKey::rsa(&small, &[1, 0, 1]).err(),
        Some(InvalidKey::RsaSize { bits: 2047 })
    );
}

#[test]
fn key_file_of_another_kind_is_refused_with_the_reason() {
    let read = |text: &str| VerificationKey::read(text.as_bytes(), Algorithm::EdDsa).err();
    assert_eq!(read(""), Some(InvalidKey::NoKey));
    assert_eq!(read("not a key"), Some(InvalidKey::NoKey));
    assert_eq!(read(RSA_PRIVATE), Some(InvalidKey::PrivateKey));
    let other = InvalidKey::OtherAlgorithm { actual: Algorithm::Rs256, expected: Algorithm::EdDsa };
    assert_eq!(read(RSA_PUBLIC), Some(other));
    let certificate = RSA_PUBLIC.replace("PUBLIC KEY", "CERTIFICATE");
    assert_eq!(read(&certificate), Some(InvalidKey::WrongSection { expected: "PUBLIC KEY" }));
    let cut = &RSA_PUBLIC[..RSA_PUBLIC.len() / 2];
    assert!(read(cut).is_some());
    assert_eq!(read("{\"kty\":\"OKP\",\"d\":\"AA\"}"), Some(InvalidKey::PrivateKey));
    let private = SigningKey::from_pem(RSA_PUBLIC.as_bytes()).err();
    assert_eq!(private, Some(InvalidKey::WrongSection { expected: "PRIVATE KEY" }));
}

#[test]
fn key_set_leaves_out_what_cannot_verify_tokens() {
    let usable = crate::testing::jwk("good", &key_pair(Algorithm::EdDsa));
    let with = |name: &str, value: Value| {
        let mut jwk = usable.clone();
        jwk["kid"] = format!("{name}={value}").into();
        jwk[name] = value;
        jwk
    };
    let set = json!({ "keys": [
        usable,
        with("use", json!("enc")),
        with("use", json!("sig")),
        with("key_ops", json!(["sign"])),
        with("key_ops", json!(["verify"])),
        with("alg", json!("ES256")),
        with("alg", json!("EdDSA")),
        with("crv", json!("Ed448")),
        with("x", json!("AA")),
        with("kty", json!("AKP")),
        { "kty": "oct", "kid": "secret", "k": "A".repeat(64) },
        { "kid": "no type" }, 7, null,
    ] });
    let ids = |allowed: &[Algorithm]| {
        let document = KeySetDocument::read(set.to_string().as_bytes(), allowed);
        let keys = document.ok().map(|document| document.keys).unwrap_or_default();
        keys.into_keys().flatten().collect::<Vec<_>>()
    };
    let expected =
        ["alg=\"EdDSA\"", "good", "key_ops=[\"verify\"]", "use=\"sig\""].map(str::to_owned);
    assert_eq!(ids(&Algorithm::ASYMMETRIC), expected);
    assert_eq!(ids(&[Algorithm::Hs256]), ["secret"]);
    assert_eq!(ids(&[Algorithm::Es256]), [""; 0]);
}

#[test]
fn key_without_id_counts_only_when_it_is_the_only_one() {
    let [one, two] = [Algorithm::EdDsa; 2].map(key_pair).map(|pair| {
        let mut jwk = crate::testing::jwk("k", &pair);
        jwk.as_object_mut().expect("an object").remove("kid");
        jwk
    });
    let named = crate::testing::jwk("k", &key_pair(Algorithm::EdDsa));
    let ids = |keys: Value| {
        let text = json!({ "keys": keys }).to_string();
        let document = KeySetDocument::read(text.as_bytes(), &Algorithm::ALL);
        document.map(|document| document.keys.into_keys().collect::<Vec<_>>()).ok()
    };
    assert_eq!(ids(json!([one])), Some(vec![None]));
    assert_eq!(ids(json!([one, named])), Some(vec![Some("k".to_owned())]));
    assert_eq!(ids(json!([one, two])), Some(vec![None]), "the first of equal ids counts");
}

#[test]
fn key_set_has_at_most_sixty_four_keys() {
    let pair = key_pair(Algorithm::EdDsa);
    let set = |count: usize| {
        let keys: Vec<_> =
            (0..count).map(|id| crate::testing::jwk(&id.to_string(), &pair)).collect();
        KeySetDocument::read(json!({ "keys": keys }).to_string().as_bytes(), &Algorithm::ALL)
            .map(|document| document.keys.len())
    };
    assert_eq!(set(64), Ok(64));
    assert_eq!(set(65), Err(UnusableKey::TooMany(65)));
    assert_eq!(set(0), Err(UnusableKey::None));
}

#[test]
fn debug_output_has_nothing_of_a_key() {
    let pair = key_pair(Algorithm::Hs256);
    let key = VerificationKey::secret(pair.file.as_bytes()).unwrap();
    assert_eq!(format!("{key:?} {:?}", pair.signing), "VerificationKey(Hs256) SigningKey(Hs256)");
}
