//! What a sandbox may connect to. Pure: names and addresses in, a decision out.
//!
//! A connection passes three questions, and each can be asked alone:
//!
//! 1. [`Policy::decide_name`]: may some port of this name be connected to? Asked before any resolver is.
//! 2. [`Policy::decide_connection`]: may this port of this name, or of this address as written?
//! 3. [`Policy::decide_address`]: the name has this address; may that be connected to? A public name that resolves
//!    to an address of the host or its networks (DNS rebinding) ends here.

mod address;
mod host;
mod rule;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use address::{AddressClass, HostAddresses};
pub use host::Host;
pub use rule::Rule;

use crate::event::{Denial, Via};

/// The port of SMTP between servers, which only a rule that names it opens: nothing sends spam by a wildcard.
const SMTP_PORT: u16 = 25;

/// Rules in order of their weight: any `deny` that matches wins over every `allow`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policy {
    /// What may be connected to.
    pub allow: Vec<Rule>,
    /// What may not, whatever else is allowed.
    #[serde(default)]
    pub deny: Vec<Rule>,
    /// Everything public is allowed that no rule denies: `viv net learn`.
    #[serde(default)]
    pub open: bool,
}

/// What permits something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant<'p> {
    /// A rule.
    Rule(&'p Rule),
    /// [`Policy::open`].
    Open,
}

impl fmt::Display for Grant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => rule.fmt(f),
            Self::Open => f.write_str("open"),
        }
    }
}

/// Who asked for what: what a [`Denial`] says of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asked.
    pub via: Via,
    /// The name, or address, asked for, as it was written.
    pub host: &'a str,
    /// The TCP port; 0 for a name alone.
    pub port: u16,
}

impl Request<'_> {
    /// A refusal of this request.
    #[must_use]
    pub fn denial(&self, rule: &str, reason: impl Into<String>, allow: Option<String>) -> Denial {
        let (via, host, port) = (self.via, self.host.to_owned(), self.port);
        Denial { via, host, port, rule: rule.into(), reason: reason.into(), allow }
    }

    /// The port, unless any will do.
    fn some_port(&self) -> Option<u16> {
        (self.port != 0).then_some(self.port)
    }

    fn denied_by_default(&self, host: &Host, reason: impl Into<String>) -> Denial {
        self.denial(DEFAULT, reason, Some(host.with_port(self.some_port())))
    }

    fn denied_by(&self, rule: &Rule) -> Denial {
        self.denial(rule.text(), format!("the rule that denies {rule} refuses it"), None)
    }

    /// The port as [`Policy::decide_connection`] asks for it: unlike for a name alone, there is one.
    fn shown(&self, host: &Host) -> String {
        host.with_port(self.some_port())
    }
}

/// What [`Denial::rule`] says when nothing allows a request.
pub const DEFAULT: &str = "default";

impl Policy {
    /// May some port of this name be connected to? Its addresses are another question.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide_name(&self, name: &str) -> Result<(Host, Grant<'_>), Denial> {
        let request = Request { via: Via::Name, host: name, port: 0 };
        let host = Host::parse(name).map_err(|reason| request.denial(DEFAULT, reason, None))?;
        let grant = self.decide(&request, &host)?;
        Ok((host, grant))
    }

    /// May this port of this name, or of this address as it was written? The addresses of a name are another
    /// question, and an address that [`Policy::open`] grants must pass it too.
    ///
    /// # Errors
    /// The refusal.
    pub fn decide_connection(&self, request: &Request<'_>) -> Result<(Host, Grant<'_>), Denial> {
        let host = Host::parse(request.host).map_err(|reason| request.denial(DEFAULT, reason, None))?;
        if request.port == 0 {
            return Err(request.denial(DEFAULT, "port 0 cannot be connected to", None));
        }
        let grant = self.decide(request, &host)?;
        Ok((host, grant))
    }

    fn decide(&self, request: &Request<'_>, host: &Host) -> Result<Grant<'_>, Denial> {
        let port = request.some_port();
        if let Some(rule) = self.deny.iter().find(|rule| rule.denies_port(port) && rule.denies_host(host)) {
            return Err(request.denied_by(rule));
        }
        let matching = || self.allow.iter().filter(|rule| rule.matches_host(host));
        if let Some(rule) = matching().find(|rule| rule.allows_port(port)) {
            return Ok(Grant::Rule(rule));
        }
        if port == Some(SMTP_PORT) {
            let reason = "port 25 (SMTP) is refused unless a rule names it";
            return Err(request.denied_by_default(host, reason));
        }
        if self.open {
            return Ok(Grant::Open);
        }
        let reason = match matching().next() {
            Some(rule) => format!("{rule} allows another port, no rule allows {}", request.shown(host)),
            None => format!("no rule allows {}", request.shown(host)),
        };
        Err(request.denied_by_default(host, reason))
    }

    /// The host, granted as it was, has this address; may it be connected to?
    ///
    /// # Errors
    /// The refusal.
    pub fn decide_address(
        &self,
        request: &Request<'_>,
        host: &Host,
        address: IpAddr,
        grant: Grant<'_>,
        own: &HostAddresses,
    ) -> Result<(), Denial> {
        let port = request.some_port();
        let address = address.to_canonical();
        if let Some(rule) = self.deny.iter().find(|rule| rule.denies_port(port) && rule.denies_address(address)) {
            return Err(request.denied_by(rule));
        }
        let class = AddressClass::of(address, own);
        let private = matches!(grant, Grant::Rule(rule) if rule.private) && class.is_private();
        if class == AddressClass::Public || private {
            return Ok(());
        }
        if self.allow.iter().any(|rule| rule.allows_port(port) && rule.reaches_special(address)) {
            return Ok(());
        }
        let reason = match host {
            Host::Name(name) => format!("{name} resolves to {address}, {class}, which only an address rule allows"),
            Host::Address(_) => format!("{address} is {class}, which only an address rule allows"),
        };
        let allow = Host::Address(address).with_port(port);
        Err(request.denial(DEFAULT, reason, Some(allow)))
    }
}

#[cfg(test)]
mod tests;
