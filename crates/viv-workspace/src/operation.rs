//! What is to be done to a directory, decided before any of it is done.

use serde::{Deserialize, Serialize};

use crate::TreePath;
use crate::beneath::Found;
use crate::entry::{Digest, Node};

/// Why something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reason {
    /// The user took what a sandbox made.
    Accept,
    /// The user brought back what the base has of some files.
    Reject,
    /// The user brought back what was before.
    Undo,
    /// The user took that back.
    Redo,
}

/// One path, as it is and as it is to be; nothing, if nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) path: TreePath,
    pub(crate) before: Option<Node>,
    pub(crate) after: Option<Node>,
}

impl Step {
    fn inverse(&self) -> Self {
        Self { path: self.path.clone(), before: self.after.clone(), after: self.before.clone() }
    }
}

/// What is done together: on the directory, and to the base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Operation {
    /// Names it among all.
    pub(crate) token: String,
    /// Whose state it belongs to.
    pub(crate) id: String,
    pub(crate) reason: Reason,
    /// On the directory.
    pub(crate) steps: Vec<Step>,
    /// To the base. Where the directory has a step for the path, it counts only if that was done.
    pub(crate) base: Vec<Step>,
    /// The operation that this takes back.
    pub(crate) takes_back: Option<String>,
}

impl Operation {
    /// What takes it back.
    pub(crate) fn inverse(&self, token: String, reason: Reason) -> Self {
        Self {
            token,
            id: self.id.clone(),
            reason,
            steps: self.steps.iter().map(Step::inverse).collect(),
            base: self.base.iter().map(Step::inverse).collect(),
            takes_back: Some(self.token.clone()),
        }
    }

    /// The contents it needs, those that it would take to undo it among them.
    pub(crate) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.steps.iter().chain(&self.base).flat_map(|step| [&step.before, &step.after]).flatten().filter_map(|node| {
            match node {
                Node::File { digest, .. } => Some(digest),
                _ => None,
            }
        })
    }

    /// What makes room comes before what needs it.
    pub(crate) fn order(&mut self) {
        self.steps.sort_by(|one, other| (one.after.is_some(), &one.path).cmp(&(other.after.is_some(), &other.path)));
    }

    /// The name a file has until it is whole. It is the operation's own, so that one that was interrupted can
    /// find what it left.
    pub(crate) fn temporary(&self, step: usize) -> String {
        format!(".viv-{}-{step}", self.token)
    }
}

/// How a path of the directory stands to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is as it was.
    Before,
    /// It is as it is to be.
    After,
    /// It is neither.
    Neither,
}

/// How what was found stands to what was and what is to be. FIFOs, sockets and devices hold nothing that could be
/// lost: they are nothing to what brings a state back, and somebody's to what is new.
pub(crate) fn standing(found: &Found, before: &Option<Node>, after: &Option<Node>, reason: Reason) -> Standing {
    let is = |wanted: &Option<Node>| match (found, wanted) {
        (Found::Node(found, _), Some(wanted)) => found == wanted,
        // A directory may yet be emptied by another step, and goes then.
        (Found::Nothing | Found::Directory, None) => true,
        (Found::Other, None) => reason != Reason::Accept,
        _ => false,
    };
    if is(after) {
        Standing::After
    } else if is(before) {
        Standing::Before
    } else {
        Standing::Neither
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_first_and_all_of_it_is_taken_back() {
        let link = |target: &str| Some(Node::Symlink { target: target.into() });
        let step = |path: &str, before, after| Step { path: TreePath::new(path).unwrap(), before, after };
        let mut operation = Operation {
            token: "t".into(),
            id: "i".into(),
            reason: Reason::Accept,
            steps: vec![step("a/b", None, link("x")), step("b", link("y"), None), step("a", link("z"), None)],
            base: vec![step("a", link("z"), None)],
            takes_back: None,
        };
        operation.order();
        let paths =
            |operation: &Operation| operation.steps.iter().map(|step| step.path.to_string()).collect::<Vec<_>>();
        assert_eq!(paths(&operation), ["a", "b", "a/b"]);
        let mut back = operation.inverse("u".into(), Reason::Undo);
        back.order();
        assert_eq!(paths(&back), ["a/b", "a", "b"]);
        assert_eq!(back.takes_back.as_deref(), Some("t"));
        assert_eq!(back.base, [step("a", None, link("z"))]);
    }
}
