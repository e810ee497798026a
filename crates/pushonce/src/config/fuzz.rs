//! Configuration files and values of any content.

use std::str::FromStr;

use super::{Config, HostDefaults, HumanDuration, Layer, Layers};

const FILE: &str = "name = \"n1\"\nlanes = 2\nhttp = \"127.0.0.1:7080\"\njoin = [\"a:1\", \"b:2\"]\n\
    compression = false\n";

fn host() -> HostDefaults {
    HostDefaults { data_home: "/data".into(), working_dir: "/".into() }
}

#[test]
fn file_of_any_content_is_rejected_with_its_reason_or_gives_a_valid_configuration() {
    let other = "drain = \"1h 30m\"\nheader-bytes-max = \"16KiB\"\nname = \"n1\"\n";
    pushonce_fuzz::check!("config_files", vec![FILE.into(), other.into()], |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match Layer::from_toml(text) {
            Err(error) => assert!(error.to_string().len() > 20, "{error}"),
            Ok(file) => {
                let layers = Layers { file, ..Layers::default() };
                match layers.resolve_on(&host()) {
                    Err(error) => assert!(!error.to_string().is_empty()),
                    Ok(Config { name, lanes, data, .. }) => {
                        assert!(!name.is_empty() && lanes > 0 && data.is_absolute());
                    }
                }
            }
        }
    });
}

#[test]
fn accepted_duration_is_displayed_as_the_same_duration() {
    let seeds = ["150ms", "1h 30m", "1.5m", "3650d", "0s"];
    pushonce_fuzz::check!("config_values", seeds.map(Into::into).to_vec(), |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(duration) = HumanDuration::from_str(text) {
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    });
}
