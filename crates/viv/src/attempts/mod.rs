//! Several attempts at one thing: which sandboxes there are, how many run at once, and what came of them. Pure.
//!
//! ```text
//!  waiting ──a place is free──► starting ──► running ──ended──► taking ──► checking ──► ended
//!     │                            │            │                  │            │
//!     │ interrupted                │ refused    │ lost, killed     │ lost       │ lost, interrupted
//!     ▼                            ▼            ▼                  ▼            ▼
//!  not begun                    not started    lost            not taken    not checked
//! ```
//!
//! What an attempt changed is taken before its check runs, so that what that leaves behind is not part of it.

mod outcome;
mod plan;
mod table;

pub use outcome::{Attempt, Changes, Check, Ended, State, Usage, Verdict};
pub use plan::{MOST_ATTEMPTS, Plan, Resources, Wanted};
pub use table::{Table, check as words_of_check, exit as words_of, render};
