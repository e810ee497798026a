//! The reference page of the settings is equal to the code.

use std::path::Path;
use std::{env, fs};

use pushonce::cli;

#[test]
fn reference_page_is_equal_to_the_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFIG.md");
    let expected = cli::config_reference();
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &expected).expect("CONFIG.md is writable");
    }
    let actual = fs::read_to_string(&path).unwrap_or_default();
    assert!(actual == expected, "CONFIG.md differs from the code: run scripts/fix");
}
