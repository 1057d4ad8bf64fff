//! Examples and tests of reuseport whose dependencies are many: see `examples` and `tests` beside this file.
//!
//! They are a package of their own so that `cargo run --example http` compiles none of those. All cargo
//! commands that name no package are for both, so that `cargo run --example watch` works beside `http`.
