//! How a review looks. Every decision is a character too, so that nothing depends on colours.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, List, ListItem, ListState, Paragraph};
use viv_workspace::{Node, View};

use super::super::{patch, summary};
use super::state::{Item, Mark, Over, Pane, Review};

/// The narrowest terminal on which files and hunks are beside each other, in columns.
const BESIDE_COLUMNS: u16 = 72;

/// More lines than this of one file are not drawn.
const MOST_LINES: usize = 20_000;

const KEYS: &[(&str, &str)] = &[
    ("a", "accept the hunk, or in the list the file"),
    ("r", "reject it"),
    ("u", "decide nothing of it"),
    ("A", "accept whatever is not decided"),
    ("up, down", "the file or hunk before, after; also k, j"),
    ("left, right", "files, hunks; also h, l and Tab"),
    ("n, p", "the next file, the one before"),
    ("space, b", "a page on, a page back"),
    ("g, G", "the first, the last"),
    ("q", "leave: then what was decided is done, or not"),
];

/// What the last line says of the keys: the first that fits.
const HINTS: &[&str] = &[
    "a accept  r reject  u undecide  A the rest  ? keys  q leave ",
    "a accept  r reject  ? keys  q leave ",
    "? keys  q leave ",
];

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame, review: &mut Review) {
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    let bar = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(format!(" {}", review.title)).style(bar), top);
    let [accepted, rejected, partly, open] = review.counts();
    let parts = if partly == 0 { String::new() } else { format!("  {partly} partly") };
    let state = format!(" {accepted} accepted  {rejected} rejected{parts}  {open} open");
    let room = usize::from(bottom.width).saturating_sub(state.chars().count() + 1);
    let keys = HINTS.iter().find(|keys| keys.len() <= room).unwrap_or(&"");
    frame.render_widget(Paragraph::new(format!("{state} {keys:>room$}")).style(bar), bottom);

    if middle.width >= BESIDE_COLUMNS {
        let width = (middle.width / 3).clamp(24, 48);
        let [left, right] = Layout::horizontal([Constraint::Length(width), Constraint::Min(1)]).areas(middle);
        files(frame, left, review);
        hunks(frame, right, review);
    } else if review.pane == Pane::Files {
        files(frame, middle, review);
    } else {
        hunks(frame, middle, review);
    }
    match review.over {
        Over::Nothing => {}
        Over::Help => {
            over(frame, "keys", KEYS.iter().map(|(key, what)| Line::from(format!("{key:>12}  {what}"))).collect())
        }
        Over::Question => {
            let counts = format!("{accepted} accepted, {rejected} rejected{parts}; {open} stay open");
            let lines = vec![
                Line::from(counts),
                Line::from(""),
                Line::from("y  do it"),
                Line::from("n  leave, do nothing"),
                Line::from("esc  go on"),
            ];
            over(frame, "leave", lines);
        }
    }
}

fn block(title: &str, focused: bool) -> Block<'static> {
    let style =
        if focused { Style::new().add_modifier(Modifier::BOLD) } else { Style::new().add_modifier(Modifier::DIM) };
    let title = if focused { format!("> {title} ") } else { format!("  {title} ") };
    Block::bordered().title(title).border_style(style)
}

fn sign(mark: Option<Mark>) -> (&'static str, Style) {
    match mark {
        Some(Mark::Open) => ("[ ]", Style::new()),
        Some(Mark::Accept) => ("[a]", Style::new().fg(Color::Green)),
        Some(Mark::Reject) => ("[r]", Style::new().fg(Color::Red)),
        None => ("[~]", Style::new().fg(Color::Yellow)),
    }
}

fn files(frame: &mut Frame, area: Rect, review: &Review) {
    let items = review.items().iter().map(|item| {
        let (sign, style) = sign(item.mark());
        let text = format!(" {} {}", item.file.kind().letter(), name(item));
        ListItem::new(Line::from(vec![Span::styled(sign, style), Span::raw(text)]))
    });
    let list = List::new(items)
        .block(block(&format!("{} files", review.items().len()), review.pane == Pane::Files))
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = ListState::default().with_selected(Some(review.selected));
    frame.render_stateful_widget(list, area, &mut state);
}

fn name(item: &Item) -> String {
    patch::quoted_clean(&item.file.path)
}

fn hunks(frame: &mut Frame, area: Rect, review: &mut Review) {
    let focused = review.pane == Pane::Hunks;
    let Some(item) = review.current() else { return };
    let (lines, starts) = lines(item, if focused { Some(review.hunk) } else { None });
    let title = summary::name(&item.file);
    let inside = block(&title, focused).inner(area);
    let page = usize::from(inside.height).max(1);
    let last = lines.len().saturating_sub(page);
    let mut scroll = review.scroll.min(last);
    if review.follow
        && let Some(start) = starts.get(review.hunk)
    {
        let end = starts.get(review.hunk + 1).copied().unwrap_or(lines.len());
        // All of the hunk, if it fits; its beginning, if not.
        if *start < scroll || end > scroll + page {
            scroll = (*start).min(last);
        }
    }
    let seen: Vec<Line> = lines.into_iter().skip(scroll).take(page).collect();
    frame.render_widget(Paragraph::new(seen).block(block(&title, focused)), area);
    review.scroll = scroll;
    review.page = page;
}

/// What is to be seen of a file, and at which lines its hunks begin.
fn lines(item: &Item, cursor: Option<usize>) -> (Vec<Line<'static>>, Vec<usize>) {
    let mut lines = Vec::new();
    let mut starts = Vec::new();
    let dim = Style::new().add_modifier(Modifier::DIM);
    let heading = |number: usize, text: String| {
        let (sign, style) = sign(item.marks.get(number).copied().map(Some).unwrap_or(item.mark()));
        let at = if cursor == Some(number) {
            Style::new().add_modifier(Modifier::REVERSED)
        } else {
            Style::new().fg(Color::Cyan)
        };
        Line::from(vec![Span::styled(sign, style), Span::styled(format!(" {text}"), at)])
    };
    let bytes = |node: &Option<Node>| {
        node.as_ref().map_or_else(|| "nothing".to_owned(), |node| format!("{} bytes", node.size()))
    };
    match &item.view {
        Some(View::Text(text)) if !text.hunks.is_empty() => {
            let shown = patch::Shown::of(text);
            for (number, hunk) in text.hunks.iter().enumerate() {
                if number == 0 || item.marks.len() > 1 {
                    starts.push(lines.len());
                    lines.push(heading(number, shown.range(hunk)));
                } else {
                    lines.push(Line::styled(shown.range(hunk), Style::new().fg(Color::Cyan)));
                }
                for (mark, line) in shown.lines(hunk) {
                    if lines.len() >= MOST_LINES {
                        lines.push(Line::styled("there is more, which viv diff shows", dim));
                        return (lines, starts);
                    }
                    let style = match mark {
                        '+' => Style::new().fg(Color::Green),
                        '-' => Style::new().fg(Color::Red),
                        _ => Style::new(),
                    };
                    lines.push(Line::styled(format!("{mark}{}", patch::visible(line).replace('\t', "    ")), style));
                }
            }
        }
        view => {
            let what = match view {
                Some(View::Binary) => format!("binary: {} => {}", bytes(&item.file.old), bytes(&item.file.new)),
                Some(View::NotKept) => "its content was not kept".to_owned(),
                Some(View::Text(_)) => "an empty file".to_owned(),
                _ => "the content is the same".to_owned(),
            };
            starts.push(0);
            lines.push(heading(0, what));
        }
    }
    (lines, starts)
}

/// A box over the middle.
fn over(frame: &mut Frame, title: &str, lines: Vec<Line<'static>>) {
    let area = frame.area();
    let width = lines.iter().map(Line::width).max().unwrap_or(0).max(20) + 4;
    let width = u16::try_from(width).unwrap_or(u16::MAX).min(area.width);
    let height = u16::try_from(lines.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(format!(" {title} "))), place);
}
