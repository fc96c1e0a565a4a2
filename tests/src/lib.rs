//! End-to-end tests of why502: what they are made of.
//!
//! The product is judged by what real proxies write into their own logs and what the kernel
//! counts, on traffic that goes wrong in known ways. This library holds the parts: upstreams
//! that misbehave ([`misbehave`]). It knows nothing of how the agent works, only what it
//! promises to print.

pub mod misbehave;
