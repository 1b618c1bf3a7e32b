//! Image in, OCI bundle out.
