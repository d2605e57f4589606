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
