//! From what was asked for to a sandbox's network: rules, model APIs, certificates, environment.

pub mod secrets;
pub mod trusted;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use viv_net::gateway::{Agent, Budget, Credential, GatewaySpec, PROXY_VARIABLES, Protocol, Upstream};
use viv_net::guest::{proxy_environment, retry_environment};
use viv_net::policy::{Policy, Rule};
use viv_net::sets::{self, SetName};
use viv_net::spec::Keys;
use viv_net::trust;
use viv_proto::network::GATEWAY_LISTENER;
use viv_sandbox::{CERTIFICATES, NetworkMode, NetworkSpec, Paths, Publish, SSH_AGENT};

use crate::environment::HostEnvironment;
use crate::error::{Error, ErrorKind, Failure};
use crate::settings::definitions::DEFAULT_LOCALHOST_PORT;
use crate::settings::layer::{Found, SecretSetting};
use crate::settings::network::{NetworkChoice, PriceSettings, UpstreamSettings, parse_key};
use crate::settings::{Layer, Origin};

/// The settings that have to do with the network and with secrets, of all places.
#[derive(Debug, Default)]
pub struct NetworkRequest {
    /// Which way.
    pub net: NetworkChoice,
    allow: Vec<String>,
    deny: Vec<String>,
    gateway: Vec<String>,
    budget: Budget,
    publish: Vec<Publish>,
    localhost_port: Option<u16>,
    /// For the guest, by name.
    pub secrets: BTreeMap<String, SecretSetting>,
    ssh_agent: bool,
    trust: Vec<PathBuf>,
    upstreams: BTreeMap<String, UpstreamSettings>,
    prices: BTreeMap<String, PriceSettings>,
    /// Whether rules were given on the command line,
    typed_rules: bool,
    /// and whether a budget was.
    typed_budget: bool,
}

impl NetworkRequest {
    /// Takes them out of a layer.
    #[must_use]
    pub fn take(layer: &mut Layer) -> Self {
        fn values<T>(found: &mut Vec<Found<T>>) -> Vec<T> {
            std::mem::take(found).into_iter().map(|found| found.value).collect()
        }
        let is_typed = |origin: Origin| origin == Origin::CommandLine;
        Self {
            typed_rules: layer.allow.iter().chain(&layer.deny).any(|rule| is_typed(rule.origin)),
            typed_budget: layer.budget.as_ref().is_some_and(|budget| is_typed(budget.origin)),
            net: layer.net.take().map(|found| found.value).unwrap_or_default(),
            allow: values(&mut layer.allow),
            deny: values(&mut layer.deny),
            gateway: values(&mut layer.gateway),
            budget: layer.budget.take().map(|found| found.value).unwrap_or_default(),
            publish: values(&mut layer.publish),
            localhost_port: layer.localhost_port.take().map(|found| found.value),
            secrets: std::mem::take(&mut layer.secrets).into_iter().map(|(name, found)| (name, found.value)).collect(),
            ssh_agent: layer.ssh_agent.take().is_some_and(|found| found.value),
            trust: values(&mut layer.trust),
            upstreams: std::mem::take(&mut layer.upstreams),
            prices: std::mem::take(&mut layer.prices),
        }
    }

    /// What was typed and has no effect would be lost silently. What stands in a file is for other runs, too.
    fn check(&self) -> Result<(), Error> {
        let unused = if self.typed_rules && self.net != NetworkChoice::Filtered {
            "--allow and --deny are for --net filtered"
        } else if self.typed_budget && self.gateway.is_empty() {
            "--budget is for what --gateway allows"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Usage, unused))
    }
}

/// A sandbox's network, and what the host has to say about it.
pub struct Network {
    /// What the sandbox is to be.
    pub spec: NetworkSpec,
    /// The keys among the environment that its gateway needs.
    pub keys: Keys,
    /// Variables that no process of the sandbox inherits.
    pub withheld: Vec<String>,
    /// What is less than was asked for.
    pub warnings: Vec<String>,
}

/// Resolves a network: looks at the configuration of the host's own clients where sets are asked for, and
/// at its certificates.
///
/// # Errors
/// Settings that do not go together, a set that the host has no client for, a key that is not there.
pub fn resolve(
    request: &NetworkRequest,
    workspace: &Path,
    host: &HostEnvironment,
    paths: &Paths,
) -> Result<Network, Failure> {
    request.check()?;
    let mut spec = NetworkSpec {
        publish: request.publish.clone(),
        names_port: NonZeroU16::new(request.localhost_port.unwrap_or(DEFAULT_LOCALHOST_PORT)),
        ..NetworkSpec::default()
    };
    let mut warnings = Vec::new();
    spec.mode = match &request.net {
        NetworkChoice::None => NetworkMode::None,
        NetworkChoice::Filtered => {
            let policy = policy(request, workspace, host, paths, &mut spec, &mut warnings)?;
            spec.environment.extend(proxy_environment());
            spec.environment.extend(retry_environment());
            NetworkMode::Filtered { policy }
        }
        NetworkChoice::Nat => NetworkMode::Nat,
        NetworkChoice::Bridge(bridge) => NetworkMode::Bridge { bridge: bridge.clone() },
    };
    if request.net != NetworkChoice::None {
        spec.certificates = trust::bundle(&host.variables, &request.trust, &paths.cache)?;
        if spec.certificates.is_some() {
            spec.environment.extend(trust::environment(CERTIFICATES));
        }
    }
    if request.ssh_agent {
        let socket = host.variables.get("SSH_AUTH_SOCK").filter(|socket| socket.starts_with('/')).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no SSH agent here: SSH_AUTH_SOCK is not set")
                .hint("eval \"$(ssh-agent)\" && ssh-add")
        })?;
        spec.ssh_agent = Some(PathBuf::from(socket));
        spec.environment.insert("SSH_AUTH_SOCK".to_owned(), SSH_AGENT.to_owned());
    }
    let mut keys = Keys::default();
    let mut withheld: Vec<String> = request.secrets.values().filter_map(|secret| variable(&secret.source)).collect();
    if !request.gateway.is_empty() {
        let gateway = gateway(request, host)?;
        for upstream in gateway.upstreams.values() {
            if let Some(name) = variable(&upstream.credential) {
                let value = host.variables.get(&name).cloned().unwrap_or_default();
                keys.insert(&name, value);
                withheld.push(name);
            }
        }
        // A proxy's URL may have a password in it.
        for name in PROXY_VARIABLES {
            if let Some(value) = host.variables.get(name) {
                keys.insert(name, value.clone());
                withheld.push(name.to_owned());
            }
        }
        spec.environment.extend(gateway_environment(&gateway));
        spec.gateway = Some(gateway);
    }
    Ok(Network { spec, keys, withheld, warnings })
}

fn variable(source: &Credential) -> Option<String> {
    match source {
        Credential::Env(name) => Some(name.clone()),
        _ => None,
    }
}

/// The rules, those of sets included, whose settings for programs inside go to `spec`.
fn policy(
    request: &NetworkRequest,
    workspace: &Path,
    host: &HostEnvironment,
    paths: &Paths,
    spec: &mut NetworkSpec,
    warnings: &mut Vec<String>,
) -> Result<Policy, Failure> {
    let mut policy = Policy::default();
    let mut wanted = Vec::new();
    for text in &request.allow {
        if text.starts_with('@') {
            wanted.push(text.parse::<SetName>()?);
        } else {
            policy.allow.push(text.parse::<Rule>()?);
        }
    }
    for text in &request.deny {
        policy.deny.push(text.parse::<Rule>()?);
    }
    wanted.sort();
    wanted.dedup();
    if !wanted.is_empty() {
        let clients = sets::gather(&wanted, workspace, &paths.cache, &host.variables);
        for set in wanted {
            let answer = sets::answer(set, &clients)?;
            policy.allow.extend(answer.rules);
            spec.files.extend(answer.files);
            spec.environment.extend(answer.environment);
            warnings.extend(answer.warnings);
        }
    }
    Ok(policy)
}

/// The model APIs that are known by name: wire format, place, and the variable of the key.
const KNOWN: [(&str, Protocol, &str, &str); 3] = [
    ("anthropic", Protocol::Anthropic, "https://api.anthropic.com", "ANTHROPIC_API_KEY"),
    ("openai", Protocol::OpenAi, "https://api.openai.com", "OPENAI_API_KEY"),
    ("gemini", Protocol::Gemini, "https://generativelanguage.googleapis.com", "GEMINI_API_KEY"),
];

fn gateway(request: &NetworkRequest, host: &HostEnvironment) -> Result<GatewaySpec, Error> {
    let mut upstreams = BTreeMap::new();
    for name in &request.gateway {
        let configured = request.upstreams.get(name);
        let known = KNOWN.iter().find(|(known, ..)| known == name);
        if configured.is_none() && known.is_none() {
            let mut names: Vec<&str> = KNOWN.iter().map(|(name, ..)| *name).collect();
            names.extend(request.upstreams.keys().map(String::as_str));
            return Err(Error::new(ErrorKind::Usage, format!("no model API is called {name}"))
                .hint(format!("there are {}; others go into config.toml as [gateway.{name}]", names.join(", "))));
        }
        let settings = configured.cloned().unwrap_or_default();
        let missing = |key: &str| Error::new(ErrorKind::Configuration, format!("[gateway.{name}] has no {key}"));
        let credential = match (&settings.key, known) {
            (Some(key), _) => parse_key(key, host.home.as_deref()).map_err(|_| missing("usable key"))?,
            (None, Some((.., variable))) => Credential::Env((*variable).to_owned()),
            (None, None) => return Err(missing("key").hint("key = \"env:NAME\", or key = \"none\"")),
        };
        if let Credential::Env(variable) = &credential
            && host.variables.get(variable).is_none_or(|value| value.is_empty())
        {
            let error =
                Error::new(ErrorKind::NotFound, format!("the key of {name} is not there: {variable} is not set")).hint(
                    format!(
                        "export {variable}=…, or say in config.toml where it is: [gateway.{name}] key = \"file:~/.key\""
                    ),
                );
            return Err(match login_of(name, host) {
                Some(login) => {
                    error.hint(format!("to use this host's login: [gateway.{name}] key = \"login:{login}\""))
                }
                None => error,
            });
        }
        let upstream = Upstream {
            protocol: settings.protocol.or(known.map(|known| known.1)).unwrap_or(Protocol::OpenAi),
            url: settings.url.or(known.map(|known| known.2.to_owned())).ok_or_else(|| missing("url"))?,
            credential,
        };
        upstreams.insert(name.clone(), upstream);
    }
    let token = format!("sk-viv-{}", viv_sandbox::new_token());
    Ok(GatewaySpec {
        upstreams,
        agents: vec![Agent { number: 0, token, budget: Budget::default() }],
        budget: request.budget,
        prices: request.prices.iter().map(|(name, price)| (name.clone(), price.price())).collect(),
        ..GatewaySpec::default()
    })
}

/// The agent whose login on this host would do as the key of a model API, if it is there.
fn login_of(name: &str, host: &HostEnvironment) -> Option<&'static str> {
    let (login, file) = match name {
        "anthropic" => ("claude", ".claude/.credentials.json"),
        "openai" => ("codex", ".codex/auth.json"),
        _ => return None,
    };
    host.home.as_ref().is_some_and(|home| home.join(file).is_file()).then_some(login)
}

/// Where the programs inside find the gateway, and what they present to it: of each wire format the first
/// API by name, in the variables that its own tools read.
fn gateway_environment(gateway: &GatewaySpec) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    let Some(agent) = gateway.agents.first() else { return environment };
    for (name, upstream) in &gateway.upstreams {
        let url = format!("http://127.0.0.1:{GATEWAY_LISTENER}/{name}");
        let (url_variable, url, key_variable) = match upstream.protocol {
            // With the token's variable Claude Code asks nothing; with the key's it wants it approved.
            Protocol::Anthropic => ("ANTHROPIC_BASE_URL", url, "ANTHROPIC_AUTH_TOKEN"),
            Protocol::OpenAi => ("OPENAI_BASE_URL", format!("{url}/v1"), "OPENAI_API_KEY"),
            Protocol::Gemini => ("GOOGLE_GEMINI_BASE_URL", url, "GEMINI_API_KEY"),
        };
        environment.entry(url_variable.to_owned()).or_insert(url);
        environment.entry(key_variable.to_owned()).or_insert_with(|| agent.token.clone());
    }
    environment
}
