//! A run repeats from its seed, bit for bit.

use std::path::Path;

use pushonce_simulation::campaign::run_process;

#[test]
fn equal_seeds_have_equal_traces_and_different_seeds_do_not() {
    let program = Path::new(env!("CARGO_BIN_EXE_simulate"));
    let run = |seed: u64, options: &[&str]| {
        let mut arguments = vec![format!("--seed={seed}")];
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        let verdict = run_process(program, &arguments, None).expect("start a process");
        let verdict = verdict.expect("a verdict");
        assert!(verdict.is_pass(), "{verdict:?}");
        assert!(verdict.acknowledged > 0 && verdict.delivered > 0, "{verdict:?}");
        verdict.trace
    };
    let first = run(6, &[]);
    assert_eq!(run(6, &[]), first);
    assert_eq!(run(6, &["--system-threads"]), first);
    assert_ne!(run(5, &[]), first);
}
