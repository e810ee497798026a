//! Tests of the testbed, with sockets, files and commands instead of nodes.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;

/// A testbed, or `None` with a notice if the machine cannot provide one.
fn new_testbed() -> Option<Testbed> {
    Testbed::new(7).map_err(|error| report_skipped("a test of the testbed", &error)).ok()
}

/// A UDP socket on a host.
fn socket(testbed: &Testbed, end: LinkEnd, port: u16) -> UdpSocket {
    let address = match end {
        LinkEnd::Node(i) => (testbed.address(i), port),
        LinkEnd::Clients => (Ipv4Addr::UNSPECIFIED, port),
    };
    let bind = move || UdpSocket::bind(address).expect("bind a free port");
    let socket = match end {
        LinkEnd::Node(i) => testbed.host(i).namespace.run(bind),
        LinkEnd::Clients => bind(),
    };
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set the timeout");
    socket
}

fn send(socket: &UdpSocket, to: &UdpSocket, text: &str) {
    socket.send_to(text.as_bytes(), to.local_addr().unwrap()).expect("send");
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).expect("a packet arrives");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Polls a condition for up to 10 s.
fn wait_until(condition: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(10), "{condition}: not within 10 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const A: LinkEnd = LinkEnd::Node(0);
const B: LinkEnd = LinkEnd::Node(1);

#[test]
fn cut_blocks_one_direction_between_hosts_that_reach_each_other() {
    let Some(testbed) = new_testbed() else { return };
    let (a, b) = (socket(&testbed, A, 7091), socket(&testbed, B, 7091));
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    send(&client, &a, "from the test");
    assert_eq!(receive(&a), "from the test");

    testbed.set_link(A, B, LinkRules::cut());
    let before = testbed.packet_counts(A, B);
    send(&a, &b, "lost");
    send(&b, &a, "the other way");
    assert_eq!(receive(&a), "the other way");
    wait_until("the switch has counted the packet", || {
        testbed.packet_counts(A, B).sent > before.sent
    });
    assert_eq!(testbed.packet_counts(A, B).carried, before.carried);

    testbed.restore_links();
    send(&a, &b, "healed");
    assert_eq!(receive(&b), "healed");
}

#[test]
fn port_cut_leaves_other_ports_open() {
    let Some(testbed) = new_testbed() else { return };
    let (a, b) = (socket(&testbed, A, 7091), socket(&testbed, B, 7091));
    let (a_open, b_open) = (socket(&testbed, A, 7090), socket(&testbed, B, 7090));
    testbed.set_link(A, B, LinkRules { cut: LinkCut::Ports(vec![7091]), ..LinkRules::default() });
    send(&a, &b, "peer to peer");
    send(&a_open, &b, "client to peer");
    send(&a_open, &b_open, "client to client");
    assert_eq!(receive(&b_open), "client to client");
    let PacketCounts { sent, carried, .. } = testbed.packet_counts(A, B);
    assert_eq!(sent - carried, 2);
}

#[test]
fn delayed_packet_is_overtaken_by_an_undelayed_one() {
    let Some(testbed) = new_testbed() else { return };
    let (a, b) = (socket(&testbed, A, 7091), socket(&testbed, B, 7091));
    let delay = Duration::from_millis(200);
    testbed.set_link(A, B, LinkRules { delay, duplicate: 1.0, ..LinkRules::default() });
    let start = Instant::now();
    send(&a, &b, "late");
    wait_until("the packet is scheduled", || testbed.packet_counts(A, B).sent > 0);
    testbed.set_link(A, B, LinkRules::default());
    send(&a, &b, "early");
    assert_eq!(receive(&b), "early");
    assert_eq!([receive(&b), receive(&b)], ["late", "late"]);
    assert!(start.elapsed() >= delay);
}

#[test]
fn power_cut_keeps_fsynced_data_and_loses_the_rest() {
    let Some(testbed) = new_testbed() else { return };
    let host = testbed.host(0);
    let (kept, lost) = (host.volume_path().join("kept"), host.volume_path().join("lost"));
    let mut file = std::fs::File::create(&kept).unwrap();
    file.write_all(b"fsynced").unwrap();
    file.sync_all().unwrap();
    drop(file);
    std::fs::write(&lost, "not fsynced").unwrap();

    host.cut_power().unwrap();
    assert!(std::fs::write(host.volume_path().join("more"), "more").is_err());
    host.restore_power().unwrap();

    assert_eq!(std::fs::read(&kept).unwrap(), b"fsynced");
    assert_ne!(std::fs::read(&lost).unwrap_or_default(), b"not fsynced");
    std::fs::write(&lost, "again").unwrap();
}

#[test]
fn full_volume_rejects_writes_until_freed_and_other_volumes_do_not() {
    let Some(testbed) = new_testbed() else { return };
    let (full, other) = (testbed.host(0), testbed.host(1));
    assert!(full.fill_volume().unwrap() > 200 << 20);
    let write = |host: &TestHost| {
        let mut file = std::fs::File::create(host.volume_path().join("file"))?;
        file.write_all(&[1; 100_000]).and_then(|()| file.sync_all())
    };
    let error = write(&full).expect_err("the volume is full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    write(&other).unwrap();
    full.free_volume().unwrap();
    write(&full).unwrap();
}

/// The output of a command on a host.
fn command_output(host: &TestHost, line: &str) -> Result<String, String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    let mut command = host.command(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = host.start(command).unwrap().wait_with_output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn clock_step_affects_one_host_only() {
    let Some(testbed) = new_testbed() else { return };
    let (stepped, other) = (testbed.host(0), testbed.host(1));
    let ahead = |host: &TestHost| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        command_output(host, "date +%s").unwrap().parse::<i64>().unwrap()
            - now.as_secs().cast_signed()
    };
    for step in [3600, -3600, 0] {
        stepped.shim.step_clock(step);
        assert!((step - 5..=step + 5).contains(&ahead(&stepped)), "{}", ahead(&stepped));
        assert!((-5..=5).contains(&ahead(&other)), "{}", ahead(&other));
    }
}

#[test]
fn injected_fsync_failure_hits_once_and_delay_slows_fsync() {
    let Some(testbed) = new_testbed() else { return };
    let host = testbed.host(0);
    let path = host.volume_path().join("file");
    std::fs::write(&path, "text").unwrap();
    let fsync = format!("sync {}", path.display());
    host.shim.fail_fsyncs(1);
    let error = command_output(&host, &fsync).expect_err("the fsync fails");
    assert!(error.contains("Input/output error"), "{error}");
    command_output(&host, &fsync).unwrap();

    let (delay, start) = (Duration::from_millis(50), Instant::now());
    host.shim.delay_fsyncs(delay);
    command_output(&host, &fsync).unwrap();
    assert!(start.elapsed() >= delay);
    let shim = &host.shim;
    assert_eq!([shim.fsyncs(), shim.failed_fsyncs(), shim.delayed_fsyncs()], [3, 1, 1]);
}

/// Set in the child process of the test, which is the run that is killed.
const VICTIM_VAR: &str = "PUSHONCE_RIG_VICTIM";

#[test]
fn killed_run_leaves_no_processes_interfaces_or_loop_devices_and_the_next_run_removes_its_files() {
    if std::env::var_os(VICTIM_VAR).is_some() {
        run_until_killed();
    }
    let Some(_rig) = new_testbed() else { return };
    let name = std::thread::current().name().expect("a test has a name").to_owned();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(VICTIM_VAR, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut read_value = |name: &str| {
        let line = lines.find_map(|line| Some(line.split_once(name)?.1.to_owned()));
        line.unwrap_or_else(|| panic!("the victim did not print its {name}"))
    };
    let (home, network, process) =
        (read_value("home "), read_value("network "), read_value("process "));
    let process = format!("/proc/{process}");
    let interface = format!("/sys/class/net/rig{network}");
    assert!([&home, &process, &interface].iter().all(|path| Path::new(path).exists()));
    assert!(has_loop_device(&home));

    victim.kill().unwrap();
    victim.wait().unwrap();

    wait_until("its process is gone", || !Path::new(&process).exists());
    wait_until("its interface is gone", || !Path::new(&interface).exists());
    wait_until("its loop device is gone", || !has_loop_device(&home));
    let _next = Testbed::new(7).unwrap();
    assert!(!Path::new(&home).exists());
}

/// Prints what must be cleaned up, and waits to be killed.
fn run_until_killed() -> ! {
    let testbed = Testbed::new(7).unwrap();
    let host = testbed.host(0);
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut sleeper = host.start(host.command(sleep)).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "home {}", testbed.run_dir.path().display()).unwrap();
    writeln!(out, "network {}\nprocess {}", testbed.network[2], sleeper.id()).unwrap();
    let ended = sleeper.wait();
    panic!("the process was not killed: {ended:?}");
}

/// Whether a loop device is backed by a file in this directory.
fn has_loop_device(home: &str) -> bool {
    let devices = std::fs::read_dir("/sys/block").unwrap().flatten();
    let files =
        devices.map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")));
    files.flatten().any(|file| file.starts_with(home))
}
