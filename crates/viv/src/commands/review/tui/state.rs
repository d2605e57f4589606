//! What is looked at and what was decided; nothing of how it looks.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use viv_workspace::{FileChange, View};

/// What was decided of a hunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing yet.
    Open,
    /// It is taken.
    Accept,
    /// It is dropped.
    Reject,
}

/// A file.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) file: FileChange,
    /// What there is to see of it, once it was looked at.
    pub(super) view: Option<View>,
    /// One for each hunk; a single one for what cannot be taken by hunks, or was not looked at.
    pub(super) marks: Vec<Mark>,
}

impl Item {
    /// What was decided of all of it; none if its hunks differ.
    pub(super) fn mark(&self) -> Option<Mark> {
        let first = self.marks.first().copied().unwrap_or(Mark::Open);
        self.marks.iter().all(|mark| *mark == first).then_some(first)
    }
}

/// Where keys go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    /// The list of files.
    Files,
    /// The hunks of one.
    Hunks,
}

/// What is over everything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing.
    Nothing,
    /// The keys.
    Help,
    /// Whether what was decided is to be done.
    Question,
}

/// What comes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Go,
    /// It ends, and what was decided is done.
    Apply,
    /// It ends, and nothing is done.
    Leave,
}

/// A review.
#[derive(Debug)]
pub(super) struct Review {
    pub(super) title: String,
    items: Vec<Item>,
    pub(super) selected: usize,
    /// The hunk under the cursor.
    pub(super) hunk: usize,
    pub(super) pane: Pane,
    pub(super) over: Over,
    /// The first line of the hunks that is seen.
    pub(super) scroll: usize,
    /// Whether the hunk under the cursor is to be brought into sight.
    pub(super) follow: bool,
    /// How many lines there are to see at once; drawing tells.
    pub(super) page: usize,
}

impl Review {
    pub(super) fn new(title: String, files: Vec<FileChange>) -> Self {
        let items = files.into_iter().map(|file| Item { file, view: None, marks: vec![Mark::Open] }).collect();
        Self {
            title,
            items,
            selected: 0,
            hunk: 0,
            pane: Pane::Files,
            over: Over::Nothing,
            scroll: 0,
            follow: true,
            page: 1,
        }
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    pub(super) fn current(&self) -> Option<&Item> {
        self.items.get(self.selected)
    }

    /// The file that is to be looked at first.
    pub(super) fn wants_view(&self) -> Option<FileChange> {
        self.current().filter(|item| item.view.is_none()).map(|item| item.file.clone())
    }

    /// What there is to see of it.
    pub(super) fn set_view(&mut self, view: View) {
        let Some(item) = self.items.get_mut(self.selected) else { return };
        let hunks = match &view {
            View::Text(text) if item.file.has_hunks() => text.hunks.len().max(1),
            _ => 1,
        };
        // What was decided of the file before it was looked at is decided of each.
        let mark = item.mark().unwrap_or(Mark::Open);
        item.marks = vec![mark; hunks];
        item.view = Some(view);
    }

    /// How many files are decided as accepted, rejected, partly, and not.
    pub(super) fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for item in &self.items {
            counts[match item.mark() {
                Some(Mark::Accept) => 0,
                Some(Mark::Reject) => 1,
                None => 2,
                Some(Mark::Open) => 3,
            }] += 1;
        }
        counts
    }

    /// Does what a key means.
    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            // In raw mode nobody else makes a signal of it.
            return if key.code == KeyCode::Char('c') { Next::Leave } else { Next::Go };
        }
        match self.over {
            Over::Help => self.over = Over::Nothing,
            Over::Question => match key.code {
                KeyCode::Char('y') | KeyCode::Enter => return Next::Apply,
                KeyCode::Char('n') => return Next::Leave,
                KeyCode::Esc | KeyCode::Char('q') => self.over = Over::Nothing,
                _ => {}
            },
            Over::Nothing => return self.plain_key(key.code),
        }
        Next::Go
    }

    fn plain_key(&mut self, code: KeyCode) -> Next {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => {
                let [accepted, rejected, partly, _] = self.counts();
                if accepted + rejected + partly == 0 {
                    return Next::Leave;
                }
                self.over = Over::Question;
            }
            KeyCode::Char('?') => self.over = Over::Help,
            KeyCode::Char('a') => self.decide(Mark::Accept),
            KeyCode::Char('r') => self.decide(Mark::Reject),
            KeyCode::Char('u') => self.decide(Mark::Open),
            KeyCode::Char('A') => self.accept_the_rest(),
            KeyCode::Char(' ') | KeyCode::PageDown => self.turn(self.page.saturating_sub(2).max(1) as isize),
            KeyCode::Char('b') | KeyCode::PageUp => self.turn(-(self.page.saturating_sub(2).max(1) as isize)),
            KeyCode::Tab | KeyCode::BackTab => {
                self.pane = if self.pane == Pane::Files { Pane::Hunks } else { Pane::Files };
            }
            KeyCode::Right | KeyCode::Char('l') | KeyCode::Enter => self.pane = Pane::Hunks,
            KeyCode::Left | KeyCode::Char('h') => self.pane = Pane::Files,
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Char('n') => self.select(self.selected.saturating_add(1)),
            KeyCode::Char('p') => self.select(self.selected.saturating_sub(1)),
            KeyCode::Home | KeyCode::Char('g') => self.edge(false),
            KeyCode::End | KeyCode::Char('G') => self.edge(true),
            _ => {}
        }
        Next::Go
    }

    fn select(&mut self, index: usize) {
        let index = index.min(self.items.len().saturating_sub(1));
        if index != self.selected {
            self.selected = index;
            self.hunk = 0;
            self.scroll = 0;
        }
        self.follow = true;
    }

    fn hunks(&self) -> usize {
        self.current().map_or(0, |item| item.marks.len())
    }

    fn step(&mut self, by: isize) {
        match self.pane {
            Pane::Files => self.select(self.selected.saturating_add_signed(by)),
            // At the last hunk it is on to the next lines.
            Pane::Hunks => {
                let to = self.hunk.saturating_add_signed(by);
                if to < self.hunks() && to != self.hunk {
                    self.hunk = to;
                    self.follow = true;
                } else {
                    self.turn(by);
                }
            }
        }
    }

    fn edge(&mut self, last: bool) {
        match (self.pane, last) {
            (Pane::Files, _) => self.select(if last { usize::MAX } else { 0 }),
            (Pane::Hunks, true) => {
                self.hunk = self.hunks().saturating_sub(1);
                self.follow = true;
            }
            (Pane::Hunks, false) => {
                self.hunk = 0;
                self.scroll = 0;
                self.follow = true;
            }
        }
    }

    /// Scrolls; drawing keeps it within what there is.
    fn turn(&mut self, by: isize) {
        self.scroll = self.scroll.saturating_add_signed(by);
        self.follow = false;
    }

    /// Decides what is under the cursor, and goes on to the next.
    fn decide(&mut self, mark: Mark) {
        let (pane, hunk) = (self.pane, self.hunk);
        let Some(item) = self.items.get_mut(self.selected) else { return };
        match (pane, item.marks.get_mut(hunk)) {
            (Pane::Hunks, Some(one)) => {
                *one = mark;
                if hunk + 1 < item.marks.len() {
                    self.hunk += 1;
                    self.follow = true;
                }
            }
            _ => {
                item.marks.fill(mark);
                if mark != Mark::Open {
                    self.select(self.selected + 1);
                }
            }
        }
    }

    fn accept_the_rest(&mut self) {
        let marks = self.items.iter_mut().flat_map(|item| &mut item.marks);
        marks.filter(|mark| **mark == Mark::Open).for_each(|mark| *mark = Mark::Accept);
    }
}
