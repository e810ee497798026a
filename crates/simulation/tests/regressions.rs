//! Plans that once failed, shortened: each names the defect in its first line.

use std::fs;
use std::path::Path;

use pushonce_simulation::campaign::run_process;

#[test]
fn plans_that_once_failed_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let arguments = ["--plan".to_owned(), file.display().to_string()];
        let verdict = run_process(Path::new(env!("CARGO_BIN_EXE_simulate")), &arguments, None);
        let verdict = verdict.unwrap().unwrap();
        assert!(verdict.is_pass(), "{}: {verdict:?}", file.display());
    }
}
