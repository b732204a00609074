//! Clients attached to live shims.

use inro::shim::{Attached, Shim, ShimError, Wanted, read_exit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::*;

const ALL: Wanted = Wanted {
    stdin: true,
    stdout: true,
    stderr: true,
};
const OUTPUT: Wanted = Wanted { stdin: false, ..ALL };

/// A started container of `script` with an open stdin.
async fn started(ground: &Ground, script: &str, stdio: Stdio) -> Box_ {
    let mut c = Box_::new(ground, &["sh", "-c", script]);
    c.stdio = Stdio { stdin: true, ..stdio };
    if stdio.terminal {
        c.spec["process"]["terminal"] = json!(true);
    }
    c.create(ground).await.unwrap();
    c.start().unwrap();
    c
}

async fn attach(c: &Box_, wanted: Wanted) -> (Shim, Attached) {
    let shim = Shim::connect(&c.dir).unwrap();
    let attached = shim.attach(wanted).await.unwrap();
    (shim, attached)
}

/// Everything to the end of a stream.
async fn rest(stream: &mut Option<tokio::net::UnixStream>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let stream = stream.as_mut().expect("it was asked for");
    let read = timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await;
    read.expect("an end of the stream").unwrap();
    bytes
}

async fn say(attached: &mut Attached, text: &str) {
    attached
        .stdin
        .as_mut()
        .expect("an input")
        .write_all(text.as_bytes())
        .await
        .unwrap();
}

fn exit_code(c: &Box_) -> i32 {
    eventually("the exit record", || c.dir.join("exit").exists());
    read_exit(&c.dir).unwrap().unwrap().code
}

#[test]
fn a_client_that_stops_reading_costs_neither_log_nor_others_a_byte() {
    let Some(ground) = Ground::new() else { return };
    // More than any buffer on the way, in lines that tell their place.
    let mut flood = Vec::new();
    for number in 0..400_000 {
        writeln!(flood, "{number:0100}").unwrap();
    }
    fs::write(ground.base.join("rootfs/data/flood"), &flood).unwrap();
    block(async {
        let c = started(
            &ground,
            "read go; cat /data/flood; echo err >&2; exit 7",
            Stdio::default(),
        )
        .await;
        let (stopped, _unread) = attach(&c, OUTPUT).await;
        let (gone, streams) = attach(&c, OUTPUT).await;
        let (reading, mut attached) = attach(&c, ALL).await;
        drop((gone, streams));
        say(&mut attached, "go\n").await;
        let (mut stdout, mut stderr) = (attached.stdout.take(), attached.stderr.take());
        let (out, err) = tokio::join!(rest(&mut stdout), rest(&mut stderr));
        assert!(out == flood, "{} of {} bytes", out.len(), flood.len());
        assert_eq!(err, b"err\n");
        timeout(Duration::from_secs(1), stopped.dismissed())
            .await
            .expect("the stopped one is told");
        assert!(timeout(Duration::from_millis(10), reading.dismissed()).await.is_err());
        assert_eq!(exit_code(&c), 7);
        eventually("the end of the shim", || !c.dir.join("shim.sock").exists());
        let log = fs::read_to_string(c.dir.join("log")).unwrap();
        let stdout = log.lines().filter_map(|line| Some(line.split_once(" stdout F ")?.1));
        let logged = stdout.fold(Vec::new(), |mut all, line| {
            all.extend_from_slice(line.as_bytes());
            all.push(b'\n');
            all
        });
        assert!(logged == flood, "{} of {} bytes in the log", logged.len(), flood.len());
    });
}

#[test]
fn a_slow_client_that_keeps_reading_gets_every_byte() {
    let Some(ground) = Ground::new() else { return };
    let flood: Vec<u8> = (0..12 << 20)
        .map(|at| if at % 64 == 63 { b'\n' } else { b'a' + (at % 23) as u8 })
        .collect();
    fs::write(ground.base.join("rootfs/data/flood"), &flood).unwrap();
    block(async {
        let c = started(&ground, "read go; cat /data/flood", Stdio::default()).await;
        let (shim, mut attached) = attach(&c, ALL).await;
        say(&mut attached, "go\n").await;
        let mut stdout = attached.stdout.take().unwrap();
        let mut all = Vec::new();
        // Some 8 MiB a second, and once a pause that is shorter than the credit.
        let mut piece = vec![0; 64 << 10];
        loop {
            let count = stdout.read(&mut piece).await.unwrap();
            if count == 0 {
                break;
            }
            all.extend_from_slice(&piece[..count]);
            let pause = if all.len() >= 4 << 20 && all.len() - count < 4 << 20 {
                500
            } else {
                8
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        assert!(all == flood, "{} of {} bytes", all.len(), flood.len());
        assert!(timeout(Duration::from_millis(10), shim.dismissed()).await.is_err());
    });
}

#[test]
fn stdin_once_ends_with_the_first_client_that_had_it() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let once = Stdio {
            stdin_once: true,
            ..Stdio::default()
        };
        for how in ["shutdown", "drop", "disconnect"] {
            let c = started(&ground, "cat; echo end; exit 4", once).await;
            // One that only looks on, and one that has the input too but never says anything.
            let (_looker, mut looks) = attach(&c, OUTPUT).await;
            let (_idler, idles) = attach(&c, ALL).await;
            drop(attach(&c, OUTPUT).await);
            let (shim, mut attached) = attach(&c, ALL).await;
            say(&mut attached, "hello\n").await;
            let mut stdout = attached.stdout.take();
            let mut shim = Some(shim);
            match how {
                "shutdown" => attached.stdin.as_mut().unwrap().shutdown().await.unwrap(),
                "drop" => attached.stdin = None,
                _ => shim = None,
            }
            assert_eq!(rest(&mut looks.stdout).await, b"hello\nend\n", "{how}");
            if shim.is_some() {
                assert_eq!(rest(&mut stdout).await, b"hello\nend\n", "{how}");
            }
            assert_eq!(exit_code(&c), 4, "{how}");
            let mut stdin = idles.stdin.unwrap();
            eventually("the idle one's end", || {
                let written = futures_util::FutureExt::now_or_never(stdin.write(b"x"));
                written.is_some_and(|result| result.is_err())
            });
        }
    });
}

#[test]
fn without_stdin_once_clients_come_and_go() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let c = started(
            &ground,
            "while read line; do echo got $line; test $line = 3 && exit 5; done",
            Stdio::default(),
        )
        .await;
        for round in ["1", "2", "3"] {
            let (_shim, mut attached) = attach(&c, ALL).await;
            say(&mut attached, &format!("{round}\n")).await;
            let mut answer = [0; 6];
            attached.stdout.as_mut().unwrap().read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, format!("got {round}\n").as_bytes());
        }
        assert_eq!(exit_code(&c), 5);
    });
}

#[test]
fn a_terminal_is_shown_written_and_resized() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let terminal = Stdio {
            terminal: true,
            stdin_once: true,
            ..Stdio::default()
        };
        let c = started(&ground, "read go; stty size; read more; echo last", terminal).await;
        let (_other, mut other) = attach(&c, Wanted { stdin: false, ..ALL }).await;
        let (shim, mut attached) = attach(&c, Wanted { stderr: false, ..ALL }).await;
        shim.resize(123, 45).await.unwrap();
        say(&mut attached, "go\n").await;
        // The end of one client's input is not the terminal's.
        attached.stdin = None;
        let (_second, mut second) = attach(&c, ALL).await;
        say(&mut second, "more\n").await;
        let shown = String::from_utf8(rest(&mut attached.stdout).await).unwrap();
        assert!(shown.contains("45 123\r\n") && shown.ends_with("last\r\n"), "{shown}");
        assert_eq!(String::from_utf8(rest(&mut other.stdout).await).unwrap(), shown);
        assert_eq!(rest(&mut other.stderr).await, b"");
    });
}

#[test]
fn one_client_too_many_is_refused_and_the_daemon_is_not() {
    let Some(ground) = Ground::new() else { return };
    block(async {
        let c = started(&ground, "read go", Stdio::default()).await;
        let mut clients = Vec::new();
        for _ in 0..12 {
            clients.push(attach(&c, ALL).await);
        }
        let one_more = Shim::connect(&c.dir).unwrap();
        match one_more.attach(ALL).await {
            Err(error @ ShimError::Refused { .. }) => {
                assert_eq!(error.kind(), inro::model::ErrorKind::ResourceExhausted);
            }
            other => panic!("{}", other.is_ok()),
        }
        drop(clients.pop());
        // The shim hears of it in its next turn.
        let mut room = one_more.attach(ALL).await;
        for _ in 0..1000 {
            if room.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            room = one_more.attach(ALL).await;
        }
        assert!(room.is_ok());
        assert!(one_more.attach(ALL).await.is_err(), "a connection is one attach");
        one_more.kill(9).await.unwrap();
        assert_eq!(exit_code(&c), 137);
    });
}

/// Not a test of behaviour: prints what a shim has for itself. Run with `--ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn memory_of_a_shim() {
    let Some(ground) = Ground::new() else { return };
    fs::write(
        ground.base.join("rootfs/data/flood"),
        "a line of the flood\n".repeat(1 << 20),
    )
    .unwrap();
    block(async {
        let c = started(&ground, "read go; cat /data/flood; read stop", Stdio::default()).await;
        let pid = inro::shim::read_record(&c.dir).unwrap().unwrap().pid;
        let report = |when: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
            let kib = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
            };
            let private = kib("Private_Clean") + kib("Private_Dirty");
            println!("{when:10} private {private} KiB, anonymous {} KiB", kib("Anonymous"));
        };
        if std::env::var_os("SMAPS").is_some() {
            println!("{}", fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap());
        }
        report("quiet");
        let (_shim, mut attached) = attach(&c, ALL).await;
        report("attached");
        say(&mut attached, "go\n").await;
        let began = Instant::now();
        let mut all = vec![0; 20 << 20];
        attached.stdout.as_mut().unwrap().read_exact(&mut all).await.unwrap();
        println!("{:.0} MiB/s shown and logged", 20.0 / began.elapsed().as_secs_f64());
        report("after");
        say(&mut attached, "stop\n").await;
        exit_code(&c);
    });
}
