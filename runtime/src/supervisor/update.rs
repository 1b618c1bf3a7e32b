//! Changes the limits of the running generation, in its cgroup and in its bundle, so that a restart has them too.
//! It knows neither how a person spells limits nor who asks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Supervisor;
use crate::cgroup::Hierarchy;
use crate::error::Error;
use crate::events::Changed;
use crate::limits::{self, Limits};
use crate::replace::replace_private_file;

impl Supervisor {
    /// Makes `all` the limits of the running container; `annotations` go into its bundle beside them. The files that
    /// were changed, and how.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Swapping`], [`Error::Limit`], [`Error::Io`]; everything is as before then.
    pub(super) fn update(
        &mut self,
        all: &Limits,
        annotations: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, Changed>, Error> {
        let not_running = || Error::NotRunning { service: self.folders.name().to_owned() };
        if self.swap.is_some() {
            return Err(self.already_swapping());
        }
        let running = self.active.as_ref().filter(|it| it.pid.is_some()).ok_or_else(not_running)?;
        let failed = |error| Error::Io { doing: "change the generation's limits", source: error };
        let path = running.bundle.join("config.json");
        let text = fs_err::read(&path).map_err(failed)?;
        let mut spec: Value = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
        let before = spec.pointer("/linux/resources/unified").cloned().unwrap_or(json!({}));
        let said = |file: &String| before.get(file).and_then(Value::as_str);
        let changes: Limits =
            all.iter().filter(|(file, value)| said(file) != Some(value.as_str())).map(owned).collect();

        let hierarchy = Hierarchy::open().map_err(failed)?;
        let leaf = hierarchy.at(&running.cgroup);
        let old: Limits =
            changes.keys().filter_map(|file| Some((file.clone(), leaf.read(file).ok()?))).collect();
        limits::change(&leaf, &changes)?;
        spec["linux"]["resources"]["unified"] = json!(all);
        for (key, value) in annotations {
            spec["annotations"][key] = json!(value);
        }
        let text = serde_json::to_vec_pretty(&spec).expect("OK because it was JSON before");
        if let Err(error) = replace_private_file(&path, &text) {
            // What is not on disk must not be in force, or a restart would take it back unseen.
            let _ = limits::change(&leaf, &old);
            return Err(failed(error));
        }
        let changed = |(file, after): (String, String)| {
            let before = old.get(&file).map_or_else(String::new, |text| text.trim().to_owned());
            (file, Changed { before, after })
        };
        Ok(changes.into_iter().map(changed).collect())
    }
}

fn owned((file, value): (&String, &String)) -> (String, String) {
    (file.clone(), value.clone())
}
