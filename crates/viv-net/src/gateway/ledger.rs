//! What may still be spent: calls are reserved here before they are forwarded, and what they use is
//! added as it becomes known. One lock over totals and file, so no two calls take the last request.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::answer::{Fault, Trouble};
use super::budget::Dollars;
use super::meter::Tokens;
use super::usage::{self, Record, USAGE_FILE};
use super::{Budget, Error, ErrorKind, GatewaySpec, Price};

/// A line is written before a call ends when it has used this many tokens more than the last line says.
const TOKENS_BETWEEN_LINES: u64 = 2_000;

/// Budgets, prices and totals of one sandbox.
pub(super) struct Ledger {
    budget: Budget,
    agents: BTreeMap<u32, Budget>,
    prices: BTreeMap<String, Price>,
    books: Mutex<Books>,
}

struct Books {
    file: File,
    last_call: u64,
    sandbox: Spent,
    agents: BTreeMap<u32, Spent>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    requests: u64,
    tokens: u64,
    microdollars: u64,
}

impl Spent {
    fn add(&mut self, tokens: u64, microdollars: u64) {
        self.tokens = self.tokens.saturating_add(tokens);
        self.microdollars = self.microdollars.saturating_add(microdollars);
    }
}

/// Whose budget.
#[derive(Debug, Clone, Copy)]
enum Whose {
    Sandbox,
    Agent,
}

impl Ledger {
    /// Opens the record in the directory, or makes it, and goes on from its totals.
    pub(super) fn open(spec: &GatewaySpec, directory: &Path) -> Result<Self, Error> {
        let path = directory.join(USAGE_FILE);
        let failed =
            |error: io::Error| Error::new(ErrorKind::Usage, format!("{} cannot be used", path.display())).source(error);
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        if bytes.last().is_some_and(|byte| *byte != b'\n') {
            // A torn line: what follows must not be joined to it.
            file.write_all(b"\n").map_err(failed)?;
        }
        let mut books = Books { file, last_call: 0, sandbox: Spent::default(), agents: BTreeMap::new() };
        for record in usage::parse(&bytes) {
            books.last_call = books.last_call.max(record.call);
            for spent in [&mut books.sandbox, books.agents.entry(record.agent).or_default()] {
                spent.requests += 1;
                spent.add(record.tokens.total(), record.microdollars.unwrap_or(0));
            }
        }
        Ok(Self {
            budget: spec.budget,
            agents: spec.agents.iter().map(|agent| (agent.number, agent.budget)).collect(),
            prices: spec.prices.clone(),
            books: Mutex::new(books),
        })
    }

    /// Reserves and records a call, or says why it may not be made.
    pub(super) fn begin(self: &Arc<Self>, upstream: &str, agent: u32, model: Option<&str>) -> Result<Call, Trouble> {
        let mut books = self.books();
        if let Some(reason) = self.spent(&books, agent, |limit, spent| spent >= limit, true) {
            return Err(Trouble::new(Fault::Budget, reason));
        }
        books.last_call += 1;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record {
            call: books.last_call,
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            upstream: upstream.to_owned(),
            agent,
            model: model.map(str::to_owned),
            tokens: Tokens::default(),
            microdollars: None,
            status: None,
            estimated: false,
        };
        // What is not recorded is not made: the record is what a restarted egress goes by.
        books.write(&record).map_err(|error| {
            Trouble::new(Fault::Internal, format!("the call cannot be recorded on the host: {}", error.kind()))
        })?;
        books.sandbox.requests += 1;
        books.agents.entry(agent).or_default().requests += 1;
        Ok(Call { ledger: Arc::clone(self), record, written: 0 })
    }

    /// Whether a call of this agent can only be made if the model has a price.
    pub(super) fn needs_price(&self, agent: u32) -> bool {
        self.budget.microdollars.is_some()
            || self.agents.get(&agent).is_some_and(|budget| budget.microdollars.is_some())
    }

    /// Whether what a model costs is known.
    pub(super) fn has_price(&self, model: &str) -> bool {
        self.price(model).is_some()
    }

    fn price(&self, model: &str) -> Option<&Price> {
        let matching = self.prices.iter().filter(|(prefix, _)| model.starts_with(prefix.as_str()));
        matching.max_by_key(|(prefix, _)| prefix.len()).map(|(_, price)| price)
    }

    /// Which budget is spent, in words, if any is.
    fn spent(&self, books: &Books, agent: u32, over: impl Fn(u64, u64) -> bool, requests: bool) -> Option<String> {
        let none = (Budget::default(), Spent::default());
        let agents = self.agents.get(&agent).copied().unwrap_or(none.0);
        let agent = books.agents.get(&agent).copied().unwrap_or(none.1);
        [(Whose::Sandbox, self.budget, books.sandbox), (Whose::Agent, agents, agent)].into_iter().find_map(
            |(whose, budget, spent)| {
                let passed = |limit: Option<u64>, spent| limit.filter(|limit| over(*limit, spent));
                let amount = if let Some(limit) = passed(budget.requests, spent.requests).filter(|_| requests) {
                    format!("{} of {limit} requests", spent.requests)
                } else if let Some(limit) = passed(budget.tokens, spent.tokens) {
                    format!("{} of {limit} tokens", spent.tokens)
                } else if let Some(limit) = passed(budget.microdollars, spent.microdollars) {
                    format!("{} of {} US dollars", Dollars(spent.microdollars), Dollars(limit))
                } else {
                    return None;
                };
                let owner = match whose {
                    Whose::Sandbox => "sandbox",
                    Whose::Agent => "agent",
                };
                Some(format!("this {owner}'s budget is spent: {amount}; the user may grant more with --budget"))
            },
        )
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a model may not be called under a budget in dollars.
pub(super) fn unpriced(model: Option<&str>) -> Trouble {
    let message = match model {
        Some(model) => format!(
            "the budget is in dollars and the model `{model}` has no price: the user may add one to [prices] in \
             config.toml, \"{model}\" = {{ input = …, cached = …, output = … }}"
        ),
        None => "the budget is in dollars and the request does not name one model in plain JSON".to_owned(),
    };
    Trouble::new(Fault::Budget, message)
}

impl Books {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// A call that was let through. Dropped, it is recorded as it stands.
pub(super) struct Call {
    ledger: Arc<Ledger>,
    record: Record,
    /// Tokens in the last line written.
    written: u64,
}

impl Call {
    /// The model, once the request or the answer has named it. A name without a price does not replace
    /// one that has a price: upstreams answer under names of their own.
    pub(super) fn name_model(&mut self, model: &str) {
        let current = self.record.model.as_deref();
        if current != Some(model)
            && (self.ledger.has_price(model) || !current.is_some_and(|name| self.ledger.has_price(name)))
        {
            self.record.model = Some(model.to_owned());
        }
    }

    /// What it has used so far, all in all. Says which budget that passes, if one.
    pub(super) fn update(&mut self, tokens: Tokens, estimated: bool) -> Option<String> {
        let ledger = Arc::clone(&self.ledger);
        let price = self.record.model.as_deref().and_then(|model| ledger.price(model));
        let microdollars = price.map(|price| cost(&tokens, price));
        let mut books = ledger.books();
        let (before, cost_before) = (self.record.tokens.total(), self.record.microdollars.unwrap_or(0));
        let Books { sandbox, agents, .. } = &mut *books;
        for spent in [sandbox, agents.entry(self.record.agent).or_default()] {
            spent.tokens = spent.tokens.saturating_sub(before);
            spent.microdollars = spent.microdollars.saturating_sub(cost_before);
            spent.add(tokens.total(), microdollars.unwrap_or(0));
        }
        self.record.tokens = tokens;
        self.record.microdollars = microdollars;
        self.record.estimated = estimated;
        if tokens.total() >= self.written.saturating_add(TOKENS_BETWEEN_LINES) {
            self.written = tokens.total();
            // A disk that has filled up since the call began costs the record, not the call.
            let _ = books.write(&self.record);
        }
        ledger.spent(&books, self.record.agent, |limit, spent| spent > limit, false)
    }

    /// Answered with this status.
    pub(super) fn answered(&mut self, status: u16) {
        self.record.status = Some(status);
    }

    /// The model, if it is known.
    pub(super) fn model(&self) -> Option<&str> {
        self.record.model.as_deref()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = self.ledger.books().write(&self.record);
    }
}

/// What tokens cost, in millionths of a US dollar, rounded up.
fn cost(tokens: &Tokens, price: &Price) -> u64 {
    let parts = [
        (tokens.input, price.input),
        (tokens.cached, price.cached),
        (tokens.cache_write, price.cache_write),
        (tokens.output, price.output),
    ];
    let sum = parts
        .iter()
        .fold(0u128, |sum, (count, price)| sum.saturating_add(u128::from(*count).saturating_mul(u128::from(*price))));
    u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
