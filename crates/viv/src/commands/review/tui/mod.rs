//! `viv review`: files on the left, hunks on the right, a decision for each.

mod draw;
mod state;

use std::collections::BTreeSet;

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use viv_workspace::{Chosen, FileChange, Selection, Store};

use crate::error::{self, Failure};
use state::{Mark, Next, Review};

/// What the user decided.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) accepted: Selection,
    pub(super) rejected: Selection,
}

/// Has the user decide. Leaving without saying yes decides nothing.
pub(super) fn run(title: &str, files: Vec<FileChange>, store: &Store) -> Result<Decided, Failure> {
    let mut review = Review::new(title.to_owned(), files);
    let mut terminal = ratatui::try_init().map_err(error::io("the terminal cannot be drawn on"))?;
    let ended = loop {
        if let Some(file) = review.wants_view() {
            let mut shown = None;
            let looked = store.views([&file], |_, view| -> Result<(), Failure> {
                shown = Some(view);
                Ok(())
            });
            match (looked, shown) {
                (Ok(()), Some(view)) => review.set_view(view),
                (Err(failure), _) => break Err(failure),
                (Ok(()), None) => break Ok(false),
            }
            continue;
        }
        if let Err(error) = terminal.draw(|frame| draw::draw(frame, &mut review)) {
            break Err(error::io("the terminal cannot be drawn on")(error).into());
        }
        match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => match review.key(key) {
                Next::Go => {}
                Next::Apply => break Ok(true),
                Next::Leave => break Ok(false),
            },
            Ok(_) => {}
            Err(error) => break Err(error::io("the terminal cannot be read")(error).into()),
        }
    };
    // Whatever is wrong with it, it is given back as well as can be.
    let _ = ratatui::try_restore();
    Ok(if ended? { decided(&review) } else { Decided::default() })
}

/// What the marks come to.
fn decided(review: &Review) -> Decided {
    let mut decided = Decided::default();
    for item in review.items() {
        for (mark, selection) in [(Mark::Accept, &mut decided.accepted), (Mark::Reject, &mut decided.rejected)] {
            let hunks: BTreeSet<usize> =
                item.marks.iter().enumerate().filter(|(_, other)| **other == mark).map(|(number, _)| number).collect();
            let chosen = if hunks.is_empty() {
                continue;
            } else if hunks.len() == item.marks.len() {
                Chosen::Whole
            } else {
                Chosen::Hunks(hunks)
            };
            selection.0.push((item.file.clone(), chosen));
        }
    }
    decided
}

#[cfg(test)]
mod tests;
