//! Images go into a store: from archives of every kind, hostile and damaged ones, and those that other tools write.
//! Needs root, as the program itself does.

mod alike;
mod corpus;
mod damage;
#[path = "../../../tests/support/docker.rs"]
mod docker;
mod fixture;
mod hostile;
mod kinds;
mod layers;
mod limits;
mod names;
mod save;
mod seeds;
mod store;
mod tools;
