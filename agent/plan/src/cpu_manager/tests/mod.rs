mod choice;
mod file;
mod policy;
mod properties;
mod stories;
mod world;
