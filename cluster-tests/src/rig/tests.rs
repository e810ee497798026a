//! That the rig does to hosts what it says, with sockets, files and commands in the place of nodes.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;

/// A rig, or word that the machine does not give one.
fn rig() -> Option<Rig> {
    Rig::new(7).map_err(|why| left_out("a test of the rig", &why)).ok()
}

/// A UDP socket at a host, which is no further from a test than any other.
fn socket(rig: &Rig, spot: Spot, port: u16) -> UdpSocket {
    let address = match spot {
        Spot::Node(i) => (rig.address(i), port),
        Spot::Clients => (Ipv4Addr::UNSPECIFIED, port),
    };
    let bind = move || UdpSocket::bind(address).expect("a free port");
    let socket = match spot {
        Spot::Node(i) => rig.berth(i).host.run(bind),
        Spot::Clients => bind(),
    };
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("it can be set");
    socket
}

fn send(socket: &UdpSocket, to: &UdpSocket, text: &str) {
    socket.send_to(text.as_bytes(), to.local_addr().unwrap()).expect("sent");
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer).expect("it arrives");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Waits for what must become true.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const A: Spot = Spot::Node(0);
const B: Spot = Spot::Node(1);

#[test]
fn hosts_and_clients_reach_each_other_and_a_cut_stops_one_direction() {
    let Some(rig) = rig() else { return };
    let (a, b) = (socket(&rig, A, 7091), socket(&rig, B, 7091));
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    send(&client, &a, "from the test");
    assert_eq!(receive(&a), "from the test");

    rig.set(A, B, Link::cut());
    let before = rig.count(A, B);
    send(&a, &b, "lost");
    send(&b, &a, "the other way");
    assert_eq!(receive(&a), "the other way");
    wait("the switch saw it", || rig.count(A, B).sent > before.sent);
    assert_eq!(rig.count(A, B).carried, before.carried);

    rig.mend();
    send(&a, &b, "healed");
    assert_eq!(receive(&b), "healed");
}

#[test]
fn a_cut_by_port_leaves_other_ports_open() {
    let Some(rig) = rig() else { return };
    let (a, b) = (socket(&rig, A, 7091), socket(&rig, B, 7091));
    let (a_open, b_open) = (socket(&rig, A, 7090), socket(&rig, B, 7090));
    rig.set(A, B, Link { cut: Cut::Ports(vec![7091]), ..Link::default() });
    send(&a, &b, "peer to peer");
    send(&a_open, &b, "client to peer");
    send(&a_open, &b_open, "client to client");
    assert_eq!(receive(&b_open), "client to client");
    let Count { sent, carried, .. } = rig.count(A, B);
    assert_eq!(sent - carried, 2);
}

#[test]
fn a_delayed_packet_is_overtaken_by_one_that_is_not() {
    let Some(rig) = rig() else { return };
    let (a, b) = (socket(&rig, A, 7091), socket(&rig, B, 7091));
    let delay = Duration::from_millis(200);
    rig.set(A, B, Link { delay, duplicate: 1.0, ..Link::default() });
    let start = Instant::now();
    send(&a, &b, "late");
    wait("it is on its way", || rig.count(A, B).sent > 0);
    rig.set(A, B, Link::default());
    send(&a, &b, "early");
    assert_eq!(receive(&b), "early");
    assert_eq!([receive(&b), receive(&b)], ["late", "late"]);
    assert!(start.elapsed() >= delay);
}

#[test]
fn after_a_power_cut_what_was_fsynced_is_there_and_what_was_not_is_lost() {
    let Some(rig) = rig() else { return };
    let berth = rig.berth(0);
    let (kept, lost) = (berth.path().join("kept"), berth.path().join("lost"));
    let mut file = std::fs::File::create(&kept).unwrap();
    file.write_all(b"fsynced").unwrap();
    file.sync_all().unwrap();
    drop(file);
    std::fs::write(&lost, "not fsynced").unwrap();

    berth.cut_power().unwrap();
    assert!(std::fs::write(berth.path().join("more"), "more").is_err());
    berth.restore_power().unwrap();

    assert_eq!(std::fs::read(&kept).unwrap(), b"fsynced");
    assert_ne!(std::fs::read(&lost).unwrap_or_default(), b"not fsynced");
    std::fs::write(&lost, "again").unwrap();
}

#[test]
fn a_full_volume_takes_nothing_until_there_is_room_and_no_other_is_full() {
    let Some(rig) = rig() else { return };
    let (full, other) = (rig.berth(0), rig.berth(1));
    assert!(full.fill().unwrap() > 200 << 20);
    let write = |berth: &Berth| {
        let mut file = std::fs::File::create(berth.path().join("file"))?;
        file.write_all(&[1; 100_000]).and_then(|()| file.sync_all())
    };
    let refused = write(&full).expect_err("it is full");
    assert_eq!(refused.kind(), std::io::ErrorKind::StorageFull);
    write(&other).unwrap();
    full.free().unwrap();
    write(&full).unwrap();
}

/// What a command prints at a host.
fn output(berth: &Berth, line: &str) -> Result<String, String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    let mut command = berth.command(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = berth.start(command).unwrap().wait_with_output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn the_clock_of_one_host_is_stepped_and_no_other() {
    let Some(rig) = rig() else { return };
    let (stepped, other) = (rig.berth(0), rig.berth(1));
    let ahead = |berth: &Berth| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        output(berth, "date +%s").unwrap().parse::<i64>().unwrap() - now.as_secs().cast_signed()
    };
    for step in [3600, -3600, 0] {
        stepped.shim.step_clock(step);
        assert!((step - 5..=step + 5).contains(&ahead(&stepped)), "{}", ahead(&stepped));
        assert!((-5..=5).contains(&ahead(&other)), "{}", ahead(&other));
    }
}

#[test]
fn one_fsync_fails_and_the_next_does_not_and_a_slow_one_takes_its_time() {
    let Some(rig) = rig() else { return };
    let berth = rig.berth(0);
    let path = berth.path().join("file");
    std::fs::write(&path, "text").unwrap();
    let fsync = format!("sync {}", path.display());
    berth.shim.fail_fsyncs(1);
    let failed = output(&berth, &fsync).expect_err("it fails");
    assert!(failed.contains("Input/output error"), "{failed}");
    output(&berth, &fsync).unwrap();

    let (delay, start) = (Duration::from_millis(50), Instant::now());
    berth.shim.delay_fsyncs(delay);
    output(&berth, &fsync).unwrap();
    assert!(start.elapsed() >= delay);
    let shim = &berth.shim;
    assert_eq!([shim.fsyncs(), shim.failed_fsyncs(), shim.delayed_fsyncs()], [3, 1, 1]);
}

/// Tells this test, started once more, that it is the run that is to be killed.
const VICTIM: &str = "PUSHONCE_RIG_VICTIM";

#[test]
fn a_run_that_is_killed_leaves_no_process_interface_or_loop_device_and_the_next_one_its_files() {
    if std::env::var_os(VICTIM).is_some() {
        be_killed();
    }
    let Some(_rig) = rig() else { return };
    let name = std::thread::current().name().expect("a test has a name").to_owned();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(VICTIM, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut told = |what: &str| {
        let line = lines.find_map(|line| Some(line.split_once(what)?.1.to_owned()));
        line.unwrap_or_else(|| panic!("the victim has not told its {what}"))
    };
    let (home, network, process) = (told("home "), told("network "), told("process "));
    let process = format!("/proc/{process}");
    let interface = format!("/sys/class/net/rig{network}");
    assert!([&home, &process, &interface].iter().all(|path| Path::new(path).exists()));
    assert!(has_loop(&home));

    victim.kill().unwrap();
    victim.wait().unwrap();

    wait("its process is gone", || !Path::new(&process).exists());
    wait("its interface is gone", || !Path::new(&interface).exists());
    wait("its loop device is gone", || !has_loop(&home));
    let _next = Rig::new(7).unwrap();
    assert!(!Path::new(&home).exists());
}

/// Says what there is to be cleaned up, and waits for the end.
fn be_killed() -> ! {
    let rig = Rig::new(7).unwrap();
    let berth = rig.berth(0);
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let mut sleeper = berth.start(berth.command(sleep)).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "home {}", rig.home.path().display()).unwrap();
    writeln!(out, "network {}\nprocess {}", rig.network[2], sleeper.id()).unwrap();
    let ended = sleeper.wait();
    panic!("it was not killed: {ended:?}");
}

/// Whether a loop device has a file in a directory.
fn has_loop(home: &str) -> bool {
    let devices = std::fs::read_dir("/sys/block").unwrap().flatten();
    let files =
        devices.map(|device| std::fs::read_to_string(device.path().join("loop/backing_file")));
    files.flatten().any(|file| file.starts_with(home))
}
