//! The arguments of the commands for images and the store.
//! They know nothing of what the commands do.

use std::num::NonZeroU64;
use std::path::PathBuf;

use bundles::reference::Reference;
use clap::{Args, ValueEnum};

use super::Form;
use crate::limits_value::Size;
use crate::service_name::ServiceName;

/// `load`
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// An archive, a folder in OCI layout, or `-` for standard input
    #[arg(value_name = "FILE|DIR|-")]
    pub source: PathBuf,
    /// Name and tag that the image gets, instead of the ones that it carries
    #[arg(short, long, value_name = "NAME:TAG")]
    pub tag: Option<Reference>,
    #[command(flatten)]
    pub bounds: BoundsTyped,
    #[command(flatten)]
    pub form: Form,
}

/// How much may come out of an image.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct BoundsTyped {
    /// Unpack no more than this, all layers together [default: 100g, or as /etc/opsrun/opsrun.toml says]
    #[arg(long, value_name = "SIZE")]
    pub max_unpacked: Option<Size>,
    /// Unpack no layer to more than so many times its compressed size [default: 200, or as that file says]
    #[arg(long, value_name = "TIMES")]
    pub max_ratio: Option<NonZeroU64>,
    /// Make no more files than this, all layers together [default: 4000000, or as that file says]
    #[arg(long, value_name = "COUNT")]
    pub max_files: Option<NonZeroU64>,
}

/// `commit`
#[derive(Debug, Args)]
pub(crate) struct Commit {
    /// The service
    pub service: ServiceName,
    /// Name and tag of the new image
    #[arg(value_name = "NAME:TAG")]
    pub name: Reference,
    /// Who made it
    #[arg(short, long, value_name = "NAME")]
    pub author: Option<String>,
    /// What for
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Hold a running container still while its changes are read
    #[arg(short, long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pause: bool,
}

/// `save`
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Images, by name and tag or by id; one that is named by its id is saved without a name
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<Reference>,
    /// File to write, or `-` for standard output; one that is there is replaced
    #[arg(short, long, value_name = "FILE|-", default_value = "-")]
    pub output: PathBuf,
    /// Form of the archive
    #[arg(long, value_name = "FORMAT", default_value = "oci-archive")]
    pub format: ArchiveFormat,
    /// Leave the layers uncompressed, as they are in a docker-archive anyway
    #[arg(long)]
    pub uncompressed: bool,
}

/// Forms of archives that images are saved in
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArchiveFormat {
    /// An OCI layout, which Docker reads as well
    OciArchive,
    /// As `docker save` writes it
    DockerArchive,
}

/// `pull`
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The image, by tag, by digest, or by both
    #[arg(value_name = "REFERENCE")]
    pub image: Reference,
    /// Name and tag that the image gets, instead of its own
    #[arg(short, long, value_name = "NAME:TAG")]
    pub tag: Option<Reference>,
    #[command(flatten)]
    pub bounds: BoundsTyped,
    #[command(flatten)]
    pub form: Form,
}

/// When an image is pulled
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullWhen {
    /// When the image is not loaded
    Missing,
    /// Each time
    Always,
    /// Not at all
    Never,
}

/// `images`
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Only images of this name
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Ids only
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    #[command(flatten)]
    pub form: Form,
}

/// `rmi`
#[derive(Debug, Args)]
pub(crate) struct Rmi {
    /// Images, by name and tag or by id
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<Reference>,
}

/// `prune`
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub form: Form,
}

/// `fsck`
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Remove what is broken, so that loading the image again brings it back
    #[arg(long)]
    pub repair: bool,
    #[command(flatten)]
    pub form: Form,
}
