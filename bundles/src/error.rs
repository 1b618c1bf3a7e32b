//! What can go wrong in this room: a variant is an operation and its subject.
//! The text never repeats its source, and hints are the launcher's; a variant carries what a hint needs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::Digest;

/// The result of what this room does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the bundles room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed while doing something.
    #[error("could not {doing}")]
    Io {
        /// What was being done, as in "could not …".
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// The disk or the quota is full. Nothing half-made is left.
    #[error("could not {doing}: the disk is full")]
    DiskFull {
        /// What was being done, as in "could not …".
        doing: String,
    },

    // ---- references and digests
    /// Not the name of an image.
    #[error("{text:?} is not the name of an image: {reason}")]
    InvalidReference {
        /// As it was typed or found.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not a digest, or not one of the kind that is supported (sha256).
    #[error("{text:?} is not a sha256 digest")]
    InvalidDigest {
        /// As it was found.
        text: String,
    },

    /// Not a platform.
    #[error("{text:?} is not a platform; one is written like linux/amd64")]
    InvalidPlatform {
        /// As it was typed.
        text: String,
    },

    // ---- archives
    /// The file or folder to load is not there.
    #[error("there is no {path}")]
    NoSource {
        /// What was asked for.
        path: PathBuf,
    },
    /// The file or folder is no image.
    #[error("{origin} is not an image: {reason}")]
    NotAnImage {
        /// Where it was read from: a path, or "standard input".
        origin: String,
        /// Why it is taken to be none.
        reason: String,
    },
    /// The archive ends before it is complete.
    #[error("{origin} is truncated: {reason}")]
    Truncated {
        /// Where it was read from.
        origin: String,
        /// What is cut off or missing.
        reason: String,
    },
    /// The archive is damaged, or contradicts itself.
    #[error("{origin} is damaged: {reason}")]
    Damaged {
        /// Where it was read from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A JSON document in the archive cannot be understood.
    #[error("{document} in {origin} cannot be understood")]
    Document {
        /// Where it was read from.
        origin: String,
        /// Which document: `manifest.json`, or a digest.
        document: String,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// A blob that the image needs is not in the archive.
    #[error("{blob} is missing from {origin}")]
    BlobMissing {
        /// Where it was looked for.
        origin: String,
        /// Which blob, as in "layer 2 (sha256:…)".
        blob: String,
    },
    /// A blob's length is not what its descriptor says.
    #[error("{blob} has {found} bytes, its descriptor says {expected}")]
    WrongSize {
        /// Which blob.
        blob: String,
        /// Bytes by its descriptor.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// A blob's content does not have the digest it is stored under.
    #[error("{blob} is corrupt: its digest is {found} instead of {expected}")]
    WrongDigest {
        /// Which blob.
        blob: String,
        /// The digest by which it is known.
        expected: Digest,
        /// The digest of what was read.
        found: Digest,
    },
    /// A layer's uncompressed content is not the one that the image's configuration names.
    #[error(
        "{layer} is not the one that the image was made with: its diff id is {found} instead of {expected}"
    )]
    WrongDiffId {
        /// Which layer.
        layer: String,
        /// By the image's configuration.
        expected: Digest,
        /// Of what was read.
        found: Digest,
    },
    /// More would come out than is allowed ([`crate::store::Bounds`]).
    #[error("{what} is larger than it may be")]
    TooLarge {
        /// Which layer, or the archive.
        what: String,
        /// The bound, and how it was met.
        source: crate::store::Excess,
    },
    /// A layer cannot be decompressed.
    #[error("{layer} cannot be decompressed ({compression})")]
    Decompress {
        /// Which layer.
        layer: String,
        /// gzip or zstd.
        compression: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A media type that cannot be honoured, such as an encrypted layer's or an artifact's.
    #[error("{blob} is of the unsupported media type {media_type}")]
    UnsupportedMediaType {
        /// Which blob.
        blob: String,
        /// Its media type.
        media_type: String,
    },
    /// A layer's first bytes contradict its media type.
    #[error("{layer} should be {expected} by its media type, but is {found}")]
    WrongCompression {
        /// Which layer.
        layer: String,
        /// By its media type.
        expected: &'static str,
        /// By its first bytes.
        found: &'static str,
    },
    /// No image in the archive is for the wanted platform.
    #[error("{origin} has no image for {wanted}, only for {}", .have.join(", "))]
    OtherPlatform {
        /// Where it was read from.
        origin: String,
        /// The platform wanted, as in `linux/amd64`.
        wanted: String,
        /// The platforms that there are.
        have: Vec<String>,
    },
    /// An image has no name, and none was given.
    #[error("the image in {origin} has no name")]
    Unnamed {
        /// Where it was read from.
        origin: String,
        /// The bare tag that it carries, if it carries one.
        tag: Option<String>,
        /// How many images the archive has; a name can only be given to a single one.
        images: usize,
    },
    /// A name was given for an archive of several images.
    #[error("{origin} holds {images} images; one name cannot be given to all of them")]
    NameForSeveral {
        /// Where it was read from.
        origin: String,
        /// How many there are.
        images: usize,
    },

    // ---- registries
    /// A name without a registry, and there is no default one.
    #[error("{wanted} names no registry, and there is no default one")]
    NoRegistry {
        /// What was asked for.
        wanted: String,
    },
    /// A registry cannot be connected to.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// The host with its port.
        host: String,
        /// Why not.
        source: io::Error,
    },
    /// A registry's certificate is not trusted, or it does not speak TLS.
    #[error("{host} cannot be trusted")]
    Untrusted {
        /// The host with its port.
        host: String,
        /// Whether it speaks something else than TLS.
        is_plain: bool,
        /// Why not.
        source: io::Error,
    },
    /// A registry stopped sending.
    #[error("{host} sent nothing for {seconds} s")]
    Stalled {
        /// The host with its port.
        host: String,
        /// How long it was waited for, in seconds.
        seconds: f32,
    },
    /// A blob broke off and did so again however often it was resumed.
    #[error("{host} broke off after {bytes} bytes")]
    BrokeOff {
        /// The host with its port.
        host: String,
        /// How many bytes came.
        bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// A registry wants other credentials, or some.
    #[error("{host} does not let {who} pull {repository}{}", behind_colon(.said))]
    Denied {
        /// The host with its port.
        host: String,
        /// Whose credentials were shown: "nobody in particular" or where they come from.
        who: String,
        /// The name in the registry.
        repository: String,
        /// What the registry said.
        said: String,
        /// Whether there were credentials.
        had_credentials: bool,
    },
    /// A registry does not have it.
    #[error("{host} has no {wanted}")]
    NotInRegistry {
        /// The host with its port.
        host: String,
        /// What was asked for.
        wanted: String,
        /// Some tags that there are, when it was a tag that was asked for.
        have: Vec<String>,
    },
    /// A registry answered with an error.
    #[error("{host} answered {status}{}", behind_colon(.said))]
    Answered {
        /// The host with its port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        said: String,
    },
    /// A registry asked for more patience than there is.
    #[error("{host} asks to come again in {seconds} s (status {status})")]
    ComeLater {
        /// The host with its port.
        host: String,
        /// The HTTP status.
        status: u16,
        /// How long.
        seconds: u64,
    },
    /// A registry's answer makes no sense.
    #[error("{host} gave an answer that makes no sense: {reason}")]
    Nonsense {
        /// The host with its port.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A registry sends one where credentials could be read on the way.
    #[error("{host} points to {to}, which would be spoken to without TLS")]
    WithoutTls {
        /// The host with its port.
        host: String,
        /// The other host.
        to: String,
    },
    /// An image in a form that is given up since 2017: its layers have no digests of their own content.
    #[error("{origin} is an image of Docker's schema 1, which is not supported")]
    SchemaOne {
        /// Where it is.
        origin: String,
    },
    /// A file of certificates cannot be used.
    #[error("the certificates in {path} cannot be used: {reason}", path = .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The system trusts nobody.
    #[error("this host has no certificates of authorities{reason}")]
    NoSystemCertificates {
        /// Why not, beginning with a colon; or empty.
        reason: String,
    },
    /// A file with credentials cannot be understood. What is in it is not shown.
    #[error("the credentials in {path} cannot be used: {reason}", path = .path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program that keeps credentials failed.
    #[error("{program}, which {path} names for {host}, {reason}", path = .path.display())]
    CredentialProgram {
        /// The program.
        program: String,
        /// The file that names it.
        path: PathBuf,
        /// For whom.
        host: String,
        /// What is wrong, as in "is not installed".
        reason: String,
    },
    /// Somebody ended it.
    #[error("interrupted; nothing was changed")]
    Interrupted,
    /// A blob could not be had from a registry.
    #[error("could not download {blob}")]
    Download {
        /// Which blob.
        blob: String,
        /// Why not.
        source: Arc<Error>,
    },

    // ---- layers
    /// An entry of a layer is malformed or cannot be honoured.
    #[error("the entry {entry:?} of {layer} cannot be unpacked: {reason}")]
    Entry {
        /// Which layer.
        layer: String,
        /// The entry's name, as far as it could be read.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused what an entry of a layer asks for.
    #[error("the entry {entry:?} of {layer} cannot be unpacked: could not {doing}")]
    EntryRefused {
        /// Which layer.
        layer: String,
        /// The entry's name.
        entry: String,
        /// What was being done, as in "could not …".
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },

    // ---- the store
    /// The store was made by a newer opsrun.
    #[error("the store {path} is of version {found}; this opsrun reads up to {known}")]
    StoreNewer {
        /// The store's folder.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// Something in the store is there but makes no sense.
    #[error("{path} in the store is corrupt: {reason}")]
    StoreCorrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that must be in the store is gone.
    #[error("{path} is missing from the store")]
    StoreMissing {
        /// The file or folder.
        path: PathBuf,
    },
    /// No image in the store is called so.
    #[error("there is no image {wanted}")]
    NoImage {
        /// What was asked for.
        wanted: String,
        /// The releases that there are of that name, sorted; empty if the name is unknown.
        have: Vec<String>,
    },
    /// A name without a release, or the beginning of an id, fits several images.
    #[error("{wanted} can mean {}", .have.join(" or "))]
    AmbiguousImage {
        /// What was asked for.
        wanted: String,
        /// What it can mean, sorted.
        have: Vec<String>,
    },
    /// A layer was unpacked by an opsrun that did not keep what its tar consists of.
    #[error(
        "{image} cannot be saved: its layer {layer} was loaded by an older opsrun, which kept its files only"
    )]
    NoFrame {
        /// The image.
        image: String,
        /// The layer.
        layer: Digest,
    },
    /// Something in a container that no layer can say.
    #[error("{path} cannot be part of a layer: {reason}", path = .path.display())]
    NotForLayer {
        /// Its path in the container.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// The image cannot be removed because somebody uses it.
    #[error("{image} is in use by {by}")]
    ImageInUse {
        /// The image, as asked for.
        image: String,
        /// Who uses it, as the caller said.
        by: String,
    },

    // ---- bundles
    /// The image has no such user or group.
    #[error("{image} has no {kind} {name}")]
    NoUser {
        /// The image.
        image: String,
        /// "user" or "group".
        kind: &'static str,
        /// The name looked for.
        name: String,
    },
    /// The program to run is not in the image.
    #[error("{image} has no program {program}")]
    NoEntrypoint {
        /// The image.
        image: String,
        /// The program as given.
        program: String,
    },
    /// Neither the image nor the caller says what to run.
    #[error("{image} does not say what to run, and no command was given")]
    NothingToRun {
        /// The image.
        image: String,
    },
    /// A number that can be no user or group id.
    #[error("{id} is no user or group id: those are 0 to {id_max}")]
    IdOutOfRange {
        /// As it was typed, or as the image says.
        id: String,
        /// The highest one.
        id_max: u32,
    },
    /// The program to run is there, but the user may not execute it, or it is no regular file.
    #[error("{program} in {image} cannot be executed by user id {uid}", program = .program.display())]
    NotExecutable {
        /// The image.
        image: String,
        /// The program's path in the container.
        program: PathBuf,
        /// Who was to execute it.
        uid: u32,
    },
    /// The program to run is a script, and what is to interpret it is not there.
    #[error("{image} lacks {interpreter}, which {program} is to be run by", program = .program.display())]
    NoInterpreter {
        /// The image.
        image: String,
        /// The script's path in the container.
        program: PathBuf,
        /// What its first line names.
        interpreter: String,
    },
    /// The working folder is something else.
    #[error("the working folder {path} of {image} {reason}", path = .path.display())]
    WorkingDirectory {
        /// The image.
        image: String,
        /// The folder's path in the container.
        path: PathBuf,
        /// What is wrong, as in "is not a folder".
        reason: String,
    },
    /// Something in the image that can only be a folder is something else.
    #[error("{path} in {image} is not a folder", path = .path.display())]
    NotAFolder {
        /// The image.
        image: String,
        /// The path in the image.
        path: PathBuf,
    },
    /// A NUL byte, which would cut a text short, in what is to be run.
    #[error("{what} of {image} holds a NUL byte")]
    NulByte {
        /// The image.
        image: String,
        /// Which text, as in "an argument".
        what: &'static str,
    },
    /// A mount that cannot be.
    #[error("{source_path} cannot be mounted on {destination}: {reason}",
        source_path = .source_path.display(), destination = .destination.display())]
    Mount {
        /// On the host.
        source_path: PathBuf,
        /// In the container.
        destination: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What is to be mounted is not there.
    #[error("there is no {path} to mount on {destination}", path = .path.display(), destination = .destination.display())]
    NoMountSource {
        /// On the host.
        path: PathBuf,
        /// In the container.
        destination: PathBuf,
    },
    /// Not the name of a capability.
    #[error("{name} is not the name of a capability")]
    UnknownCapability {
        /// As it was typed.
        name: String,
    },
    /// A seccomp profile cannot be understood.
    #[error("the seccomp profile {path} cannot be used: {at}{reason}", path = .path.display(),
        at = if .key.is_empty() { String::new() } else { format!("{}: ", .key) })]
    SeccompProfile {
        /// The file.
        path: PathBuf,
        /// The key that is wrong, as in `syscalls[3].args[0].op`; empty for the whole.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No seccomp rules are known for this machine.
    #[error("no seccomp rules are known for {machine}")]
    UnknownMachine {
        /// Rust's name of it.
        machine: &'static str,
    },
    /// There is a bundle in this folder already.
    #[error("there is a bundle in {folder} already", folder = .folder.display())]
    BundleExists {
        /// The folder.
        folder: PathBuf,
    },

    // ---- what is in an image
    /// The kernel has no overlay file system.
    #[error("this kernel has no overlay file system")]
    NoOverlay,
    /// There is no such folder in the image.
    #[error("{image} has no folder {path}", path = .path.display())]
    NotInImage {
        /// The image.
        image: String,
        /// The path in the image.
        path: PathBuf,
    },
    /// A file that must be read is a pipe, a device or a folder.
    #[error("{path} in {image} is not a regular file", path = .path.display())]
    NotAFile {
        /// The image.
        image: String,
        /// The path in the image.
        path: PathBuf,
    },
    /// A file that must be read is longer than any honest one.
    #[error("{path} in {image} has more than {bytes_max} bytes", path = .path.display())]
    FileTooLong {
        /// The image.
        image: String,
        /// The path in the image.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },

    // ---- copies of folders
    /// There is something where a copy should go.
    #[error("{path} is there already and is not an empty folder", path = .path.display())]
    NotEmpty {
        /// Where the copy should go.
        path: PathBuf,
    },
    /// Another process is just making a copy at this place.
    #[error("another copy to {folder} is under way", folder = .folder.display())]
    CopyUnderWay {
        /// Where the copies go.
        folder: PathBuf,
    },
    /// A device in a folder that is to be copied.
    #[error("{path} is a device, which is not copied", path = .path.display())]
    DeviceInFolder {
        /// The device.
        path: PathBuf,
    },
    /// Folders in folders beyond any sense.
    #[error("{path} has folders more than {depth_max} deep", path = .path.display())]
    TooDeep {
        /// The folder that was to be copied.
        path: PathBuf,
        /// The limit.
        depth_max: usize,
    },
}

/// What somebody said, behind a colon; nothing if it was nothing.
fn behind_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

impl Error {
    /// An I/O error while doing something (as in "could not …"); a full disk or quota becomes
    /// [`Error::DiskFull`], because the way out of that is another one.
    pub fn io(doing: impl Into<String>, source: impl Into<io::Error>) -> Self {
        let (doing, source) = (doing.into(), source.into());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { doing },
            _ => Self::Io { doing, source },
        }
    }
}
