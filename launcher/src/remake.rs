//! Makes a new generation like one that is kept: image, definition, limits and environment, and its configuration or another.
//! It starts nothing, and does not know what for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bundles::bundle::{self, Unpacked};
use bundles::reference::Reference;
use bundles::store::Store;
use runtime::crash_point;
use runtime::definition::{ANNOTATION, Definition};
use runtime::folders::ServiceFolders;
use runtime::history::{Cause, History, Kind};
use serde_json::{Value, json};

use crate::configuration;
use crate::drift;
use crate::error::Error;
use crate::generation::{self, Candidate};
use crate::layout::Layout;
use crate::prepare::{Said, places_for_host_files};
use crate::release;
use crate::service_name::ServiceName;

/// Of which service generations are made anew, and from what.
#[derive(Clone, Copy)]
pub(crate) struct Remake<'a> {
    /// Where everything lies.
    pub layout: &'a Layout,
    /// The service.
    pub service: &'a ServiceName,
    /// Where its images are.
    pub store: &'a Store,
    /// What is said about it now: which of its configuration is live, and how many generations are kept.
    pub said: &'a Said,
}

impl Remake<'_> {
    /// A new generation like `from`, with the configuration in the folder `other` instead of its own when there is one.
    ///
    /// # Errors
    /// [`Error::NoGeneration`], [`Error::GenerationGone`], [`Error::ImageGone`], [`Error::Bundles`], [`Error::Io`].
    pub(crate) fn like(&self, from: u32, other: Option<&Path>) -> Result<Candidate, Error> {
        let folders = self.folders();
        let made = generation::find(&folders, self.service, from)?;
        let image = self.image(from, &made.definition)?;
        let mut specification = made.specification;
        let candidate = Candidate::take(&folders, &self.said.both.generations)?;
        crash_point::here();

        let own = generation::configuration(&folders.generation(from));
        if own.is_dir() {
            let live = self.live(&[from]);
            configuration::copy(other.unwrap_or(&own), &candidate.configuration(), &live, &self.home())?;
            let copies = (own.as_path(), &*candidate.configuration());
            specification["mounts"] = mounts(&specification, copies, &self.home(), &live);
        }
        let definition = Definition { generation: candidate.number(), ..made.definition };
        specification["annotations"][ANNOTATION] = json!(definition.to_annotation());
        let id = Layout::container_id(self.service, candidate.number());
        specification["linux"]["cgroupsPath"] = json!(self.layout.cgroup(&id));
        crash_point::here();
        places_for_host_files(&folders.host_files())?;
        bundle::again(&image, &candidate.folder(), &specification)?;
        Ok(candidate)
    }

    /// Keeps what has been changed in the operator's configuration since `active` began, as a generation of its own that is
    /// like `active` for the rest. Its number; `None` when nothing has been changed.
    ///
    /// # Errors
    /// As [`Remake::like`].
    pub(crate) fn keep_changes(&self, active: u32, by: Cause) -> Result<Option<u32>, Error> {
        if !self.has_changed(active)? {
            return Ok(None);
        }
        // After a rollback in vain they are kept already.
        if let Some(last) = History::of(&self.folders()).read()?.last_kept() {
            let is_there = generation::configuration(&self.folders().generation(last)).is_dir();
            if is_there && !self.has_changed(last)? {
                return Ok(Some(last));
            }
        }
        let kept = self.like(active, Some(&self.home()))?;
        kept.note(Kind::Kept, by, Some(active))?;
        let number = kept.number();
        kept.stay();
        Ok(Some(number))
    }

    /// Whether the operator's configuration is another than a generation's.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn has_changed(&self, generation: u32) -> Result<bool, Error> {
        let copy = generation::configuration(&self.folders().generation(generation));
        Ok(copy.is_dir() && !drift::changes(&self.home(), &copy, &self.live(&[generation]))?.is_empty())
    }

    /// What of the configuration is live: by what is said now, and in these generations. What was bound live once may be in no
    /// copy, so it is better taken for live for too long.
    pub(crate) fn live(&self, generations: &[u32]) -> Vec<PathBuf> {
        let mut live: BTreeSet<PathBuf> = self.said.live().into_iter().collect();
        for folder in generations.iter().map(|number| self.folders().generation(*number)) {
            let Some(made) = generation::read(&folder) else { continue };
            let Some(at) = destination_of(&made.specification, &generation::configuration(&folder)) else {
                continue;
            };
            let bound = binds(&made.specification).filter_map(|bind| live_entry(bind, &at, &self.home()));
            live.extend(bound);
        }
        live.into_iter().collect()
    }

    /// Where the operator edits the configuration.
    pub(crate) fn home(&self) -> PathBuf {
        self.layout.own(self.service).configuration()
    }

    fn folders(&self) -> ServiceFolders {
        self.layout.service(self.service)
    }

    /// The image of a generation.
    ///
    /// # Errors
    /// [`Error::ImageGone`], [`Error::Bundles`].
    pub(crate) fn image(&self, generation: u32, definition: &Definition) -> Result<Unpacked, Error> {
        let gone = || Error::ImageGone {
            service: self.service.to_string(),
            generation,
            image: definition.image.clone(),
            image_id: definition.image_id.clone(),
        };
        let id: Reference = definition.image_id.parse()?;
        let image = match self.store.find(&id) {
            Err(bundles::Error::NoImage { .. }) => return Err(gone()),
            found => found?,
        };
        let image = release::unpacked(self.store, &image)?;
        if image.layers.iter().all(|layer| layer.is_dir()) { Ok(image) } else { Err(gone()) }
    }
}

/// The mounts of a bundle, with another copy of the configuration and the live entries that there are now.
fn mounts(specification: &Value, (old, new): (&Path, &Path), home: &Path, live: &[PathBuf]) -> Value {
    let mut mounts = specification["mounts"].as_array().cloned().unwrap_or_default();
    let Some(at) = destination_of(specification, old) else { return json!(mounts) };
    let is_there = |entry: &Path| home.join(entry).symlink_metadata().is_ok();
    mounts.retain(|mount| live_entry(mount, &at, home).is_none_or(|entry| is_there(&entry)));
    for entry in live.iter().filter(|entry| is_there(entry)) {
        if !mounts.iter().any(|mount| live_entry(mount, &at, home).as_ref() == Some(entry)) {
            mounts.push(json!({
                "destination": at.join(entry), "type": "bind", "source": home.join(entry),
                "options": ["rbind", "rprivate", "rw"],
            }));
        }
    }
    for mount in mounts.iter_mut().filter(|mount| path(mount, "source") == Some(old)) {
        mount["source"] = json!(new);
    }
    // A folder comes before what is mounted in it, which it would hide; the kernel's come first.
    mounts.sort_by_key(|mount| match mount["type"].as_str() {
        Some("bind") => path(mount, "destination").map_or(0, |path| path.components().count()),
        _ => 0,
    });
    json!(mounts)
}

/// Where a folder of the host is mounted.
fn destination_of(specification: &Value, source: &Path) -> Option<PathBuf> {
    let mount = binds(specification).find(|mount| path(mount, "source") == Some(source))?;
    path(mount, "destination").map(Path::to_owned)
}

fn binds(specification: &Value) -> impl Iterator<Item = &Value> {
    specification["mounts"].as_array().into_iter().flatten().filter(|mount| mount["type"] == "bind")
}

/// The entry of the configuration that a mount binds live, when it does so.
fn live_entry(mount: &Value, at: &Path, home: &Path) -> Option<PathBuf> {
    let entry = path(mount, "source")?.strip_prefix(home).ok()?;
    (path(mount, "destination")? == at.join(entry)).then(|| entry.to_owned())
}

fn path<'a>(mount: &'a Value, key: &str) -> Option<&'a Path> {
    mount[key].as_str().map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_made_anew_has_its_own_copy_and_the_keys_that_there_are_now() {
        let temporary = tempfile::tempdir().unwrap();
        let home = temporary.path().join("conf");
        for key in ["fernet-keys", "credential-keys"] {
            fs_err::create_dir_all(home.join(key)).unwrap();
        }
        let bind = |source: &Path, destination: &str| {
            let options = ["rbind", "rprivate", "rw"];
            json!({ "destination": destination, "type": "bind", "source": source, "options": options })
        };
        let kernel = json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts" });
        let own_volume = bind(&home.join("fernet-keys"), "/srv/copy/of-keys");
        let specification = json!({ "mounts": [
            kernel.clone(),
            bind(Path::new("/generations/1/conf"), "/etc/keystone"),
            bind(&home.join("fernet-keys"), "/etc/keystone/fernet-keys"),
            bind(&home.join("gone"), "/etc/keystone/gone"),
            own_volume.clone(),
        ] });
        let live = ["fernet-keys", "credential-keys", "missing"].map(PathBuf::from);
        let copies = (Path::new("/generations/1/conf"), Path::new("/generations/7/conf"));
        assert_eq!(
            mounts(&specification, copies, &home, &live),
            json!([
                kernel,
                bind(copies.1, "/etc/keystone"),
                bind(&home.join("fernet-keys"), "/etc/keystone/fernet-keys"),
                own_volume,
                bind(&home.join("credential-keys"), "/etc/keystone/credential-keys"),
            ])
        );
    }
}
