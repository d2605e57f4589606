//! What a guest's programs are told of the network, in their environment.

use std::collections::BTreeMap;

use viv_proto::network::PROXY_LISTENER;

/// What is never asked of the proxy: the guest itself. Some programs read networks, some only addresses.
const NOT_PROXIED: &str = "localhost,.localhost,127.0.0.1,127.0.0.0/8,::1";

/// The variables that name the HTTP proxy of a filtered sandbox, in both cases: curl reads `http_proxy` in small
/// letters only, others only capitals.
#[must_use]
pub fn proxy_environment() -> BTreeMap<String, String> {
    let proxy = format!("http://127.0.0.1:{PROXY_LISTENER}");
    let values = [
        ("HTTP_PROXY", proxy.as_str()),
        ("HTTPS_PROXY", proxy.as_str()),
        ("ALL_PROXY", proxy.as_str()),
        ("NO_PROXY", NOT_PROXIED),
    ];
    let both = values
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), name.to_ascii_lowercase()].map(|name| (name, value.to_owned())));
    both.collect()
}

/// How often package managers try again what was refused. They take a refusal by the proxy for a bad line; left to
/// themselves pip tries for 8 s and cargo for 12 s, and only then say why. So they try as often as fits in 2 s: pip
/// waits 0 s and 0.5 s, cargo up to 1.5 s. npm, apt and git do not try again what the proxy refuses.
#[must_use]
pub fn retry_environment() -> BTreeMap<String, String> {
    [("CARGO_NET_RETRY", "1"), ("PIP_RETRIES", "2")].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cases() {
        let lines: Vec<String> = proxy_environment().iter().map(|(name, value)| format!("{name}={value}")).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        ALL_PROXY=http://127.0.0.1:3128
        HTTPS_PROXY=http://127.0.0.1:3128
        HTTP_PROXY=http://127.0.0.1:3128
        NO_PROXY=localhost,.localhost,127.0.0.1,127.0.0.0/8,::1
        all_proxy=http://127.0.0.1:3128
        http_proxy=http://127.0.0.1:3128
        https_proxy=http://127.0.0.1:3128
        no_proxy=localhost,.localhost,127.0.0.1,127.0.0.0/8,::1
        ");
    }
}
