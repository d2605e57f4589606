//! A person at a terminal: tmux types and reads the screen.

use std::process::Command;

use crate::support::{Host, until};

/// A tmux server of this test's own, with one pane.
pub struct Pane<'a> {
    host: &'a Host,
    socket: std::path::PathBuf,
}

impl<'a> Pane<'a> {
    pub fn open(host: &'a Host, columns: u32, rows: u32) -> Self {
        Self::named(host, "tmux", columns, rows)
    }

    /// One of several.
    pub fn named(host: &'a Host, name: &str, columns: u32, rows: u32) -> Self {
        let pane = Self { host, socket: host.path(format!("home/{name}.sock")) };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        pane.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, "PS1='host$ ' sh"]);
        pane.tmux(&["set", "-g", "status", "off"]);
        pane.tmux(&["resize-window", "-x", &columns, "-y", &rows]);
        pane.wait_for("host$");
        pane
    }

    pub fn tmux(&self, arguments: &[&str]) -> String {
        let mut command: Command = self.host.command("tmux");
        let output = command.arg("-S").arg(&self.socket).args(arguments).output().unwrap();
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a line and Enter.
    pub fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.keys(&["Enter"]);
    }

    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |screen| screen.contains(text));
    }

    pub fn wait_until(&self, what: &str, so: impl Fn(&str) -> bool) {
        let mut last = String::new();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(what, || {
                last = self.screen();
                so(&last)
            });
        }));
        assert!(outcome.is_ok(), "{what} did not appear on:\n{last}");
    }
}

impl Drop for Pane<'_> {
    fn drop(&mut self) {
        let _ = self.host.command("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

#[test]
fn a_shell_with_an_editor_job_control_and_a_resize() {
    let Some(host) = Host::new() else { return };
    host.write("file.txt", "first line\nsecond line\n");
    let pane = Pane::open(&host, 80, 24);
    pane.line(&format!("{} run --quiet", host.executable().display()));
    pane.wait_for("agent@");

    pane.line("stty size; tput colors; echo $TERM");
    pane.wait_for("24 80");

    // vim fills the pane: its status line is the last of 24, then of 30.
    pane.line("vi -u NONE file.txt");
    let filled = |rows: usize| {
        move |screen: &str| {
            screen.starts_with("first line") && screen.lines().filter(|line| line.starts_with('~')).count() == rows - 3
        }
    };
    pane.wait_until("vim on 24 rows", filled(24));
    pane.tmux(&["resize-window", "-x", "100", "-y", "30"]);
    pane.wait_until("vim on 30 rows", filled(30));
    pane.line(":q!");
    pane.wait_until("the shell's screen is back", |screen| screen.contains("24 80") && !screen.contains("second line"));
    pane.line("stty size");
    pane.wait_for("30 100");

    // A key typed before the program has the terminal would be the shell's.
    pane.line("sh -c \"echo asl''eep 1; exec sleep 100\"");
    pane.wait_for("\nasleep 1");
    pane.keys(&["C-c"]);
    pane.line("echo code=$?");
    pane.wait_for("code=130");

    pane.line("sh -c \"echo asl''eep 2; exec sleep 200\"");
    pane.wait_for("\nasleep 2");
    pane.keys(&["C-z"]);
    pane.wait_for("Stopped");
    // A job that has not ended yet keeps the shell from leaving.
    pane.line("kill %1; wait %1; jobs; echo ünïcödé");
    pane.wait_for("ünïcödé");

    pane.line("exit 5");
    let at_host = |screen: &str| screen.lines().rfind(|line| !line.is_empty()) == Some("host$");
    pane.wait_until("the host's prompt", at_host);
    pane.line("echo code=$?");
    pane.wait_for("code=5");
    // The terminal is itself again: what is typed is edited and shown, and ctrl-C is the shell's.
    pane.line("echo $(stty -a | tr ' ;' '\\n\\n' | grep -xE 'icanon|echo|isig')");
    pane.wait_for("isig icanon echo");
    drop(pane);
    host.assert_nothing_is_left();
}

#[test]
fn a_sandbox_that_dies_in_the_alternate_screen_gives_the_terminal_back() {
    let Some(host) = Host::new() else { return };
    let pane = Pane::open(&host, 80, 24);
    pane.line("echo before the storm");
    pane.line(&format!("{} run --quiet --name doomed -- vi -u NONE", host.executable().display()));
    pane.wait_until("vim", |screen| screen.contains("\n~\n") && !screen.contains("before the storm"));
    let killed = host.run(&["kill", "doomed"]);
    assert_eq!(killed.code, 0, "{killed:?}");
    pane.wait_until("the screen from before", |screen| {
        screen.contains("before the storm") && screen.contains("error:")
    });
    pane.line("echo typed 'and' shown");
    pane.wait_for("typed and shown");
}
