//! The example of QUIC, asked by clients that change their ports.

#![cfg(target_os = "linux")]

#[path = "../../tests/util/programs.rs"]
mod programs;
#[path = "../../tests/util/mod.rs"]
mod util;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::thread;

use programs::{Process, command, next, serve};
use util::PATIENCE;

/// A client that trusts the certificate which the example prints.
fn quic_client(process: &Process) -> quinn::Endpoint {
    let line = next(&process.stdout).unwrap();
    let hex = line.strip_prefix("certificate ").unwrap();
    let cert: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let mut roots = quinn::rustls::RootCertStore::empty();
    roots.add(cert.into()).unwrap();
    let config = quinn::ClientConfig::with_root_certificates(roots.into()).unwrap();
    let mut client = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    client.set_default_client_config(config);
    client
}

/// The member that answers a question on a connection.
async fn quic_member(connection: &quinn::Connection, process: u32) -> usize {
    let exchange = async {
        let (mut question, mut answer) = connection.open_bi().await.unwrap();
        question.write_all(b"hello").await.unwrap();
        question.finish().unwrap();
        answer.read_to_end(100).await.unwrap()
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    answer
        .strip_prefix(&format!("process {process} member "))
        .and_then(|rest| rest.strip_suffix(": hello")?.parse().ok())
        .unwrap_or_else(|| panic!("{answer:?} names no member"))
}

#[tokio::test]
async fn quic_members_keep_their_clients() {
    let (process, addr) = serve(&["quic"], "127.0.0.1:0");
    let client = quic_client(&process);
    let cores = thread::available_parallelism().unwrap().get();
    let mut members = BTreeSet::new();
    for _ in 0..40 {
        // The kernel chooses by the port, so that every connection needs another.
        let rebind = || client.rebind(UdpSocket::bind("127.0.0.1:0").unwrap());
        rebind().unwrap();
        let connecting = client.connect(addr, "localhost").unwrap();
        let connection = tokio::time::timeout(PATIENCE, connecting).await.unwrap();
        let connection = connection.unwrap();
        let member = quic_member(&connection, process.id()).await;
        members.insert(member);
        for _ in 0..3 {
            rebind().unwrap();
            assert_eq!(quic_member(&connection, process.id()).await, member);
        }
        connection.close(0u8.into(), b"");
    }
    assert!(members.iter().all(|&member| member < cores), "{members:?}");
    // All 40 go to one of two by chance once in 2^39.
    assert!(cores == 1 || members.len() > 1, "{members:?}");

    let (status, stdout, stderr) = Process::start(command("quic").arg(addr.to_string())).end();
    assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
    let taken = format!("Error: cannot open a new group on {addr}: ");
    assert!(stderr.starts_with(&taken), "{stderr}");
}
