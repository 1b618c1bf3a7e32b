//! Which image is meant by a service and a release of it.
//! It knows names and the store; nothing is unpacked or run here.

use bundles::bundle::Unpacked;
use bundles::reference::Reference;
use bundles::store::{Image, Store};

use crate::error::Error;
use crate::service_name::ServiceName;

/// A release of a service that is loaded.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    /// The release: the image's tag.
    pub release: String,
    /// The image's name and tag.
    pub name: String,
    /// The image's id, `sha256:…`.
    pub image_id: String,
    /// The image.
    pub image: Unpacked,
}

/// What is wanted: a release that was typed, or the one that ran last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// As it was typed.
    pub typed: Option<&'a str>,
    /// The release in the service's record.
    pub last: Option<&'a str>,
    /// What for.
    pub by: Asker,
}

/// The command that wants a release: a hint gives back its own line, with one that there is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker {
    /// `start`.
    Start,
    /// `swap`.
    Swap,
    /// `config init`.
    ConfigInit,
}

impl Asker {
    fn line(self, service: &str, release: &str) -> String {
        match self {
            Self::Start => format!("opsrun start {service}:{release}"),
            Self::Swap => format!("opsrun swap {service} {release}"),
            Self::ConfigInit => format!("opsrun config init {service} --from {release}"),
        }
    }
}

/// Finds the image of a service.
///
/// `image_name` is the name its settings give, or the service's own. An image of exactly that name counts; without
/// one, those whose name ends in it do, `quay.io/openstack.kolla/keystone` for `keystone`.
///
/// # Errors
/// [`Error::NoImage`], [`Error::NoRelease`], [`Error::WhichRelease`]; [`Error::Bundles`] when two images fit.
pub(crate) fn find(
    store: &Store,
    service: &ServiceName,
    image_name: Option<&str>,
    wanted: Wanted<'_>,
) -> Result<Release, Error> {
    let image_name = image_name.unwrap_or(service.as_str());
    let images = store.images()?;
    let names: Vec<(&Reference, &Image)> =
        images.iter().flat_map(|image| image.names.iter().map(move |name| (name, image))).collect();
    let service = service.as_str();
    let name = choose(&names.iter().map(|(name, _)| *name).collect::<Vec<_>>(), service, image_name, wanted)?;
    let image = names.iter().find(|(known, _)| *known == &name).map(|(_, image)| *image);
    let image = image.expect("OK because the chosen name is one of these");
    of_image(store, image, &name)
}

/// The release that a name of an image stands for.
///
/// # Errors
/// [`Error::Bundles`].
pub(crate) fn of_image(store: &Store, image: &Image, name: &Reference) -> Result<Release, Error> {
    Ok(Release {
        release: name.tag.clone().unwrap_or_default(),
        name: name.to_string(),
        image_id: image.id.to_string(),
        image: unpacked(store, image)?,
    })
}

/// An image as bundles are made of it.
///
/// # Errors
/// [`Error::Bundles`].
pub(crate) fn unpacked(store: &Store, image: &Image) -> Result<Unpacked, Error> {
    Ok(Unpacked {
        name: image.title(),
        layers: store.layer_folders(image),
        configuration: store.raw_configuration(image)?,
    })
}

/// The rule of [`find`], on names alone.
fn choose(
    names: &[&Reference],
    service: &str,
    image_name: &str,
    wanted: Wanted<'_>,
) -> Result<Reference, Error> {
    let tagged: Vec<&Reference> = names.iter().copied().filter(|name| name.tag.is_some()).collect();
    let exact: Vec<&Reference> = tagged.iter().copied().filter(|name| name.name == image_name).collect();
    let ends = |name: &Reference| name.name.rsplit_once('/').is_some_and(|(_, last)| last == image_name);
    let fitting =
        if exact.is_empty() { tagged.into_iter().filter(|name| ends(name)).collect() } else { exact };
    let mut releases: Vec<String> = fitting.iter().filter_map(|name| name.tag.clone()).collect();
    releases.sort();
    releases.dedup();
    let (service, image) = (service.to_owned(), image_name.to_owned());
    let loaded = |release: &str| releases.iter().any(|loaded| loaded == release);
    let release = match (wanted.typed, wanted.last) {
        _ if releases.is_empty() => return Err(Error::NoImage { service, image, pull: None }),
        (Some(typed), _) if loaded(typed) => typed.to_owned(),
        (Some(typed), _) => {
            let line = wanted.by.line(&service, releases.first().map_or("RELEASE", String::as_str));
            return Err(Error::NoRelease { service, release: typed.to_owned(), have: releases, line });
        }
        (None, Some(last)) if loaded(last) => last.to_owned(),
        (None, _) if releases.len() == 1 => releases[0].clone(),
        (None, _) => {
            let line = wanted.by.line(&service, releases.last().map_or("RELEASE", String::as_str));
            return Err(Error::WhichRelease { service, have: releases, line });
        }
    };
    let of_release: Vec<&Reference> =
        fitting.into_iter().filter(|name| name.tag.as_deref() == Some(&release)).collect();
    match of_release[..] {
        [one] => Ok(one.clone()),
        ref several => Err(Error::Bundles(bundles::Error::AmbiguousImage {
            wanted: format!("{service}:{release}"),
            have: several.iter().map(ToString::to_string).collect(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(names: &[&str], typed: Option<&str>, last: Option<&str>) -> Result<String, String> {
        let names: Vec<Reference> = names.iter().map(|name| name.parse().unwrap()).collect();
        let names: Vec<&Reference> = names.iter().collect();
        super::choose(&names, "keystone", "keystone", Wanted { typed, last, by: Asker::Start })
            .map(|name| name.to_string())
            .map_err(|error| error.to_string())
    }

    const BOTH: [&str; 3] = ["keystone:zed", "keystone:epoxy", "glance:zed"];

    #[test]
    fn the_typed_release_wins_then_the_last_then_the_only_one() {
        assert_eq!(choose(&BOTH, Some("epoxy"), Some("zed")).unwrap(), "keystone:epoxy");
        assert_eq!(choose(&BOTH, None, Some("zed")).unwrap(), "keystone:zed");
        assert_eq!(choose(&["keystone:zed", "glance:yoga"], None, None).unwrap(), "keystone:zed");
        // The last one is not loaded any more.
        assert_eq!(choose(&["keystone:zed"], None, Some("yoga")).unwrap(), "keystone:zed");
    }

    #[test]
    fn what_cannot_be_told_names_what_there_is() {
        insta::assert_snapshot!(
            [
                choose(&BOTH, None, None).unwrap_err(),
                choose(&BOTH, Some("yoga"), None).unwrap_err(),
                choose(&["glance:zed"], None, None).unwrap_err(),
                choose(&["a/keystone:zed", "b/keystone:zed"], None, None).unwrap_err(),
            ]
            .join("\n")
        );
    }

    #[test]
    fn a_registrys_name_does_not_have_to_be_typed() {
        assert_eq!(
            choose(&["quay.io/kolla/keystone:zed"], Some("zed"), None).unwrap(),
            "quay.io/kolla/keystone:zed"
        );
        let both = ["quay.io/kolla/keystone:zed", "keystone:zed"];
        assert_eq!(choose(&both, Some("zed"), None).unwrap(), "keystone:zed");
        assert!(choose(&["x/not-keystone:zed"], None, None).is_err());
    }
}
