//! The same servers as their frameworks' introductions have them, but for a port that is shared:
//! `cargo run --bin hello -- axum localhost:8881`. SIGTERM kills them, and clients notice.
//!
//! `diff src/bin/hello/axum.rs src/bin/axum.rs` is what `reuseport` asks of a program.

mod actix;
mod async_std;
mod axum;
mod compio;
mod hickory;
mod hyper;
mod monoio;
mod poem;
mod quinn;
mod smol;
mod tonic;

use std::env;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    match env::args().nth(1).as_deref() {
        Some("actix") => actix::main()?,
        Some("async_std") => async_std::main()?,
        Some("axum") => axum::main()?,
        Some("compio") => compio::main()?,
        Some("hickory") => hickory::main()?,
        Some("hyper") => hyper::main()?,
        Some("monoio") => monoio::main()?,
        Some("poem") => poem::main()?,
        Some("quinn") => quinn::main()?,
        Some("smol") => smol::main()?,
        Some("tonic") => tonic::main()?,
        other => return Err(format!("{other:?} is no framework").into()),
    }
    Ok(())
}
