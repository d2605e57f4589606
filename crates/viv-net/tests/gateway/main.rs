//! The model gateway between a client and a scripted model API.

mod budgets;
mod faults;
mod keys;
mod logins;
mod streams;
mod support;
