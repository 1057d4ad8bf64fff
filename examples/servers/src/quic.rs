//! A certificate for QUIC, and a server that answers each stream.

use std::error::Error;

use quinn::{Incoming, ServerConfig};

/// A new certificate for each process.
pub fn config() -> Result<ServerConfig, Box<dyn Error>> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = own.signing_key.serialize_der().try_into()?;
    let cert = own.cert.der().clone();
    Ok(ServerConfig::with_single_cert(vec![cert], key)?)
}

/// Answers every stream of a connection, until the client closes it.
pub async fn answer(incoming: Incoming) {
    // A client that goes away is no error of the server's.
    let Ok(connection) = incoming.await else {
        return;
    };
    while let Ok((mut answer, mut question)) = connection.accept_bi().await {
        tokio::spawn(async move {
            if question.read_to_end(64).await.is_ok()
                && answer.write_all(crate::who().as_bytes()).await.is_ok()
            {
                let _ = answer.finish();
            }
        });
    }
}
