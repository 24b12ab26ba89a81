//! The doors of a broker, tried against real nats-servers: which client gets in where, and how much of it.

mod limits;
mod matrix;
mod operations;
mod raw;
mod routes;
mod stranger;
mod table;
