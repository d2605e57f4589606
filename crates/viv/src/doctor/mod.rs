//! Is this machine ready? Facts are probed, then judged by pure functions, then mended.
//!
//! ```text
//!  probe ──Facts──► checks ──Check, with its Mending──► shown, or carried out by mend
//! ```

pub mod checks;
pub mod facts;
pub mod mend;
pub mod probe;
