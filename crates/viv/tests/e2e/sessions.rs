//! Sessions: programs that go on when nobody looks, seen through tmux as a person would.

use std::io::{Read, Write};

use rustix::process::Signal;
use serde_json::Value;

use crate::protocol::connect;
use crate::support::{Host, Sandbox, kill, until};
use crate::terminal::Pane;

/// The sandbox's sessions, as `viv attach --list --json` has them.
fn sessions(host: &Host, sandbox: &str) -> Vec<Value> {
    let listed = host.run(&["attach", sandbox, "--list", "--json"]);
    assert_eq!(listed.code, 0, "{listed:?}");
    serde_json::from_str(&listed.stdout).unwrap()
}

/// Everything that a window shows: characters with their styles, and where the cursor is.
fn picture(pane: &Pane) -> String {
    let cursor = pane.tmux(&["display-message", "-p", "#{cursor_x},#{cursor_y} #{cursor_flag} #{alternate_on}"]);
    pane.tmux(&["capture-pane", "-p", "-e"]) + &cursor
}

/// The `viv` in a window, by a word of its command line.
fn viv_with(host: &Host, word: &str) -> u32 {
    let mut found = host.processes().into_iter().filter(|(_, line)| line.split('\0').any(|part| part == word));
    found.next().unwrap_or_else(|| panic!("no viv {word}")).0
}

fn session_of(sandbox: &Sandbox, host: &Host, options: &[&str], script: &str) -> String {
    let arguments = [&["exec", "-d"], options, &["fixture", "--", "sh", "-c", script]].concat();
    let begun = host.run(&arguments);
    assert_eq!(begun.code, 0, "{begun:?} in {}", sandbox.record());
    begun.stdout.trim().to_owned()
}

#[test]
fn an_editor_that_is_left_shows_the_same_screen_again() {
    let Some(host) = Host::new() else { return };
    let text: String = (1..=60).map(|line| format!("line {line} wide 漢字 end\n")).collect();
    host.write("file.txt", text);
    let _sandbox = host.sandbox(&[]);
    let viv = host.executable().display().to_string();
    let pane = Pane::open(&host, 80, 24);
    pane.line("echo before");
    pane.line(&format!("{viv} exec --quiet fixture -- vi -u NONE file.txt"));
    pane.wait_for("line 1 wide");
    // In the middle of the file, in the middle of a search that is shown in inverse video.
    for keys in [":set hlsearch number", "30G", "/wide"] {
        pane.tmux(&["send-keys", "-l", keys]);
        pane.keys(if keys.ends_with('G') { &["z", "z"] } else { &["Enter"] });
    }
    pane.wait_until("the search", |screen| screen.contains("31 line 31"));
    let mut before = picture(&pane);
    until("vim has drawn all of it", || {
        let now = picture(&pane);
        std::mem::replace(&mut before, now.clone()) == now
    });
    pane.keys(&["C-p", "C-q"]);
    pane.wait_until("the host's screen", |screen| screen.contains("before") && screen.trim_end().ends_with("host$"));
    assert!(!picture(&pane).contains("line 31"));

    // Another window, also one that was there only now.
    for name in ["tmux", "second"] {
        let other;
        let pane = if name == "tmux" {
            &pane
        } else {
            other = Pane::named(&host, name, 80, 24);
            &other
        };
        pane.line(&format!("{viv} attach --quiet fixture"));
        let mut last = String::new();
        let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("the same screen", || {
                last = picture(pane);
                last == before
            });
        }));
        assert!(same.is_ok(), "not\n{before}\nbut\n{last}");
        pane.keys(&["C-p", "C-q"]);
        pane.wait_until("the host's prompt", |screen| screen.trim_end().ends_with("host$"));
    }

    // Half of the sequence is for the program: ctrl-P in vim is a line up.
    pane.line(&format!("{viv} attach --quiet fixture"));
    pane.wait_for("31 line 31");
    pane.keys(&["g", "g", "C-p", "i", "typed ", "Escape"]);
    pane.wait_for("typed line 1");
    pane.line(":q!");
    pane.wait_until("the host's prompt", |screen| screen.trim_end().ends_with("host$"));
    pane.line("echo code=$?");
    pane.wait_for("code=0");
    assert_eq!(sessions(&host, "fixture")[0]["ended"]["report"]["code"], 0);
}

#[test]
fn several_viewers_of_which_one_is_killed_and_windows_that_are_closed() {
    let Some(host) = Host::new() else { return };
    let sandbox = host.sandbox(&[]);
    let viv = host.executable().display().to_string();
    let large = Pane::named(&host, "large", 100, 30);
    large.line(&format!("{viv} exec --quiet --session shared fixture -- sh"));
    large.wait_for("$ ");
    large.line("echo first; stty size");
    large.wait_for("30 100");
    let small = Pane::named(&host, "small", 60, 20);
    small.line(&format!("{viv} attach --quiet fixture shared"));
    small.wait_for("30 100");
    small.line("stty size");
    for pane in [&large, &small] {
        pane.wait_for("20 60");
    }
    // What one types, the other sees.
    large.line("echo typed in the l''arge window");
    small.wait_for("typed in the large window");

    kill(viv_with(&host, "attach"), Signal::KILL);
    until("the terminal has the other's size", || {
        let size = &sessions(&host, "fixture")[0]["size"];
        size["columns"] == 100 && size["rows"] == 30
    });
    large.line("stty size");
    large.wait_until("its own size again", |screen| screen.matches("30 100").count() == 2);

    // The window is closed: nobody looks, and the program goes on.
    drop(large);
    until("the viewer is gone", || sessions(&host, "fixture")[0]["viewers"] == 0);
    let listed = &sessions(&host, "fixture")[0];
    assert!(listed["ended"].is_null() && listed["name"] == "shared", "{listed}");
    let other = Pane::named(&host, "other", 100, 30);
    other.line(&format!("{viv} attach --quiet fixture"));
    other.wait_for("typed in the large window");
    other.line("exit 4");
    other.wait_until("the host's prompt", |screen| screen.trim_end().ends_with("host$"));
    other.line("echo code=$?");
    other.wait_for("code=4");

    // In the background, without anybody, to its end; then told to whoever asks.
    let number = session_of(&sandbox, &host, &[], "stty size; echo last words; exit 3");
    assert_eq!(number, "2");
    until("it has ended", || !sessions(&host, "fixture")[1]["ended"].is_null());
    other.line(&format!("{viv} attach fixture 2; echo code=$?"));
    other.wait_until("the last words", |screen| {
        ["ended", "24 80", "last words", "code=3"].iter().all(|text| screen.contains(text))
    });

    // And ended from outside.
    session_of(&sandbox, &host, &["--session", "stays"], "trap 'echo > hung-up; exit' HUP; sleep infinity & wait");
    let ended = host.run(&["attach", "fixture", "stays", "--end"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    until("it was hung up", || host.project().join("hung-up").exists());
    assert_eq!(sessions(&host, "fixture")[2]["ended"]["report"]["code"], 129);
    let unknown = host.run(&["exec", "-d", "fixture", "--", "no-such-program"]);
    assert_eq!(unknown.code, 127, "{unknown:?}");

    // A link that is cut ends it, and that is said; the sandbox, whose client is not to notice, goes on.
    kill(sandbox.pid("client"), Signal::STOP);
    session_of(&sandbox, &host, &[], "sleep infinity");
    let mut stream = connect(&host, &sandbox);
    stream.write_all(b"RELINK\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "OK\n");
    until("it is lost", || !sessions(&host, "fixture")[3]["ended"].is_null());
    assert!(sessions(&host, "fixture")[3]["ended"]["report"].is_null());
    session_of(&sandbox, &host, &[], "true");
    kill(sandbox.pid("client"), Signal::CONT);
}

#[test]
fn a_sandbox_that_is_started_detached_ends_with_its_program() {
    let Some(host) = Host::new() else { return };
    let viv = host.executable().display().to_string();
    let started =
        host.run(&["run", "-d", "--quiet", "--name", "night", "--", "sh", "-c", "echo working; read x; exit 7"]);
    assert_eq!(started.code, 0, "{started:?}");
    let id = started.stdout.trim().to_owned();
    assert_eq!(host.ps()[0]["id"], *id);
    let pane = Pane::open(&host, 80, 24);
    pane.line(&format!("{viv} attach --quiet night"));
    pane.wait_for("working");
    // The window it was seen in makes no difference.
    drop(pane);
    until("nobody looks", || sessions(&host, "night")[0]["viewers"] == 0);
    let pane = Pane::named(&host, "later", 80, 24);
    pane.line(&format!("{viv} attach --quiet {id}"));
    pane.wait_for("working");
    pane.keys(&["Enter"]);
    pane.wait_until("the host's prompt", |screen| screen.trim_end().ends_with("host$"));
    pane.line("echo code=$?");
    pane.wait_for("code=7");
    drop(pane);
    host.assert_nothing_is_left();
}
