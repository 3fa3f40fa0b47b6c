//! Every test that needs more than one crate: real servers, the built binary, real clients. One binary, a
//! module for each area; `support` starts what they need. How to run them: docs/testing.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod support;

mod accounts;
mod activation;
mod admin;
mod adoption;
mod carried_accounts;
mod certificates;
mod column_filters;
mod crashes;
mod crowds;
mod cutovers;
mod ddl;
mod engines;
mod events;
mod fault_walk;
mod faults;
mod fenced_accounts;
mod fences;
mod fidelity;
mod file_and_offset;
mod filtered;
mod fuzzing;
mod garbage;
mod half_closed;
mod hidden;
mod history;
mod keyless;
mod late_indexes;
mod logins;
mod matrix;
mod metrics;
mod moves;
mod objects;
mod past_fence;
mod prepared;
mod proxy_protocol;
mod refusals;
mod renamed;
mod repair;
mod replica_url;
mod replicas;
mod robustness;
mod row_images;
mod server_deaths;
mod servers;
mod sessions;
mod shutdown;
mod sysbench;
mod throttled;
mod torture;
mod types;
mod way_back;
mod xa;
