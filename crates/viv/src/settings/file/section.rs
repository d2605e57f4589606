//! The sections that describe one sandbox each: `[sandbox]` and `[sandboxes.NAME]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::DeValue;

use super::{Key, Reader, Section, Trust, Value};
use crate::error::Error;
use crate::output::clean::clean;
use crate::settings::definitions::{self, Setting};
use crate::settings::layer::Layer;
use crate::settings::values;

impl Reader<'_> {
    /// `[sandbox]`, the project's own.
    pub(super) fn own(&self, key: &Key, value: &Value) -> Result<Section, Error> {
        if let Trust::User { .. } = self.trust {
            return Err(self
                .refuse(key.span(), "[sandbox] describes a project's own sandbox, so it belongs into its viv.toml")
                .hint("describe others here: [sandboxes.NAME] with `workspace = \"/the/directory\"`"));
        }
        self.describe("sandbox", key, value, definitions::OF_OWN_SANDBOX)
    }

    /// `[sandboxes.NAME]`, any number of them.
    pub(super) fn named(&self, key: &Key, value: &Value) -> Result<BTreeMap<String, Section>, Error> {
        let mut sections = BTreeMap::new();
        for (name, value) in self.section("sandboxes", key, value)? {
            let known = values::parse_name(name.get_ref())
                .map_err(|reason| self.refuse(name.span(), format_args!("bad name of a sandbox: {reason}")))?;
            let title = format!("sandboxes.{known}");
            let section = self.describe(&title, name, value, definitions::OF_NAMED_SANDBOX)?;
            if section.workspace.is_none() && matches!(self.trust, Trust::User { .. }) {
                return Err(self
                    .refuse(name.span(), format_args!("[{title}] does not say which directory it works on"))
                    .hint("workspace = \"~/src/project\""));
            }
            sections.insert(known, section);
        }
        Ok(sections)
    }

    fn describe(
        &self,
        title: &str,
        key: &Key,
        value: &Value,
        settings: &[&'static Setting],
    ) -> Result<Section, Error> {
        let mut section = Section { layer: Layer::default(), ..Section::default() };
        for (name, value) in self.section(title, key, value)? {
            let Some(setting) = definitions::find_in(settings, name.get_ref()) else {
                return Err(self.unknown_key(title, settings, name));
            };
            self.check_allowed(setting, name)?;
            match setting.key {
                "workspace" => section.workspace = Some(self.directory(setting, value)?),
                "agent" => section.agent = Some(self.text(setting, value, values::parse_agent)?),
                "persist" => section.persist = Some(self.truth(setting, value)?),
                "autostart" => section.autostart = Some(self.truth(setting, value)?),
                "on-create" => section.on_create = self.commands(setting, value)?,
                "on-start" => section.on_start = self.commands(setting, value)?,
                _ => self.take_once(setting, name, value, &mut section.layer, "`image` and `from`", "twice")?,
            }
        }
        Ok(section)
    }

    fn directory(&self, setting: &Setting, value: &Value) -> Result<PathBuf, Error> {
        let path = self.text(setting, value, |text| Ok(PathBuf::from(text)))?;
        self.resolve_path(setting, &path, value.span())
    }

    /// Each a text for the shell, or an array of words.
    fn commands(&self, setting: &Setting, value: &Value) -> Result<Vec<Vec<String>>, Error> {
        self.array(setting, value)?.map(|value| self.command(setting, value)).collect()
    }

    fn command(&self, setting: &Setting, value: &Value) -> Result<Vec<String>, Error> {
        let words = match value.get_ref() {
            DeValue::Array(_) => {
                self.array(setting, value)?.map(|word| self.text(setting, word, values::parse_word)).collect()
            }
            _ => self.text(setting, value, values::parse_word).map(|text| {
                if text.trim().is_empty() { Vec::new() } else { vec!["/bin/sh".to_owned(), "-c".to_owned(), text] }
            }),
        };
        let words: Vec<String> = words?;
        match words.first() {
            Some(program) if !program.is_empty() => Ok(words),
            _ => Err(self.bad_value(value.span(), setting, clean("a command is a text for the shell, or an array of words").as_ref())),
        }
    }
}
