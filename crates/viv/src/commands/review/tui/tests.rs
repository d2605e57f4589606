use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use viv_workspace::hunks::TextDiff;
use viv_workspace::{Digest, Node, TreePath, View};

use super::*;

fn file(path: &str, old: bool, new: bool) -> FileChange {
    let node = |there: bool, fill: u8| there.then_some(Node::File { digest: Digest([fill; 32]), size: 7, mode: 0o644 });
    FileChange { path: TreePath::new(path).unwrap(), from: None, similarity: 0, old: node(old, 0), new: node(new, 1) }
}

fn text() -> View {
    let numbered = |changed: &[(usize, &str)]| {
        (1..=40)
            .map(|line| {
                changed
                    .iter()
                    .find(|(at, _)| *at == line)
                    .map_or_else(|| format!("{line}\n"), |(_, with)| (*with).to_owned())
            })
            .collect::<String>()
    };
    View::Text(TextDiff::new(
        numbered(&[]).into_bytes(),
        numbered(&[(5, "five\n"), (20, ""), (35, "\x1b[2Jhostile\t\u{202e}\n")]).into_bytes(),
    ))
}

struct Screen {
    review: Review,
    terminal: Terminal<TestBackend>,
}

impl Screen {
    fn new(width: u16, height: u16, files: Vec<FileChange>) -> Self {
        let review = Review::new("web (live) on /home/u/project".into(), files);
        Self { review, terminal: Terminal::new(TestBackend::new(width, height)).unwrap() }
    }

    fn press(&mut self, keys: &str) -> Next {
        let mut next = Next::Go;
        for key in keys.chars() {
            self.look();
            let code = match key {
                '\t' => KeyCode::Tab,
                '\x1b' => KeyCode::Esc,
                key => KeyCode::Char(key),
            };
            next = self.review.key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        next
    }

    fn look(&mut self) -> String {
        if let Some(file) = self.review.wants_view() {
            self.review.set_view(if file.path.name() == b"logo.png" { View::Binary } else { text() });
        }
        self.terminal.draw(|frame| draw::draw(frame, &mut self.review)).unwrap();
        self.terminal.backend().to_string()
    }
}

fn files() -> Vec<FileChange> {
    vec![
        file("src/main.rs", true, true),
        file("logo.png", true, true),
        file("new\nname", false, true),
        file("gone", true, false),
    ]
}

#[test]
fn it_fits_80_by_24() {
    let mut screen = Screen::new(80, 24, files());
    insta::assert_snapshot!("files", screen.look());
    screen.press("\ta");
    insta::assert_snapshot!("a_hunk_was_accepted", screen.look());
    screen.press("?");
    insta::assert_snapshot!("help", screen.look());
    screen.press("xq");
    insta::assert_snapshot!("question", screen.look());
}

#[test]
fn a_narrow_terminal_shows_one_pane_at_a_time_and_a_tiny_one_does_no_harm() {
    let mut screen = Screen::new(40, 10, files());
    insta::assert_snapshot!("narrow_files", screen.look());
    screen.press("\t");
    insta::assert_snapshot!("narrow_hunks", screen.look());
    for (width, height) in [(1, 1), (3, 2), (20, 3), (500, 2)] {
        let mut screen = Screen::new(width, height, files());
        screen.press("jjkk\tjj?aq");
        screen.look();
    }
}

#[test]
fn decisions_become_selections() {
    let mut screen = Screen::new(80, 24, files());
    // The first and last hunk of the first file, the second rejected; the picture rejected, the rest accepted.
    screen.press("\tara\tjrA");
    assert_eq!(screen.review.counts(), [2, 1, 1, 0]);
    assert_eq!(screen.press("qy"), Next::Apply);
    let Decided { accepted, rejected } = decided(&screen.review);
    let told = |selection: &Selection| {
        selection.0.iter().map(|(file, chosen)| format!("{} {chosen:?}", file.path)).collect::<Vec<_>>()
    };
    assert_eq!(told(&accepted), ["src/main.rs Hunks({0, 2})", "new\\nname Whole", "gone Whole"]);
    assert_eq!(told(&rejected), ["src/main.rs Hunks({1})", "logo.png Whole"]);
}

#[test]
fn leaving_without_a_yes_decides_nothing() {
    assert_eq!(Screen::new(80, 24, files()).press("q"), Next::Leave);
    let mut screen = Screen::new(80, 24, files());
    assert_eq!(screen.press("aq\x1b"), Next::Go);
    assert_eq!(screen.press("qn"), Next::Leave);
    let mut screen = Screen::new(80, 24, files());
    screen.press("agu");
    assert_eq!(screen.review.counts(), [0, 0, 0, 4]);
}

#[test]
fn long_hunks_are_paged_through() {
    let mut screen = Screen::new(80, 12, files());
    screen.press("\t");
    let first = screen.look();
    screen.press(" ");
    assert_ne!(screen.look(), first);
    screen.press("bbbb");
    assert_eq!(screen.look(), first);
    screen.press("jj");
    assert!(screen.look().contains("\\u{1b}[2Jhostile    \\u{202e}"));
}
