//! Kernels that know less than this one, played by a filter that answers some system calls for it.
//!
//! What the crate finds out about the kernel it remembers, so each kernel has a process of its own.

#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

mod util;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

use reuseport::{Family, Holder, Options, ReusePort, Spread, Std, Steering, support};
use util::{addr_of, answer, answer_option, has_option};

/// Makes a test of a function, which runs in a process of its own.
macro_rules! in_a_process_each {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            if util::is_child(stringify!($name)) {
                kernels::$name();
            } else {
                util::in_child(stringify!($name));
            }
        })*
    };
}

in_a_process_each!(this_one no_ipv6 wsl1 before_programs ignores_programs before_detaching);

mod kernels {
    use super::*;

    pub(super) fn this_one() {
        let support = support();
        assert!(
            support.shares && support.spreads && support.dual_stack,
            "{support:?}"
        );
        assert!(support.steers, "{support:?}");
        assert_eq!(support.group_limit, 32_768);
        groups_are_new();
    }

    pub(super) fn no_ipv6() {
        answer(libc::SYS_socket, &[(0, libc::AF_INET6)], libc::EAFNOSUPPORT);
        assert_eq!(
            addr_of(&Std::listen(":0").unwrap()).ip(),
            Ipv4Addr::UNSPECIFIED
        );
        assert_eq!(
            addr_of(&Std::listen_packet(":0").unwrap()).ip(),
            Ipv4Addr::UNSPECIFIED
        );
        let group = Options::new().group(":0", 2).unwrap();
        assert_eq!(group.local_addr().ip(), Ipv4Addr::UNSPECIFIED);
        let port = group.local_addr().port();
        drop(group);
        // On a port of the caller's choice too.
        let group = Options::new().packet_group(format!(":{port}"), 2).unwrap();
        assert_eq!(group.local_addr(), (Ipv4Addr::UNSPECIFIED, port).into());
        assert!(
            group
                .iter()
                .all(|member| addr_of(member) == group.local_addr())
        );
        let refused = |why| {
            let options = Options::new().family(Family::V6);
            let error = options.listen::<Std>(":0").unwrap_err();
            assert_eq!(util::ours(&error), format!("cannot share [::]:0: {why}"));
        };
        // This kernel has it, so it is a sandbox, as this one here.
        refused(
            "a sandbox keeps this process from IPv6 (as RestrictAddressFamilies= of systemd does)",
        );
        // No path leads anywhere, so that there is no table of IPv6 addresses either.
        answer(libc::SYS_statx, &[(2, 0)], libc::ENOENT);
        answer(libc::SYS_newfstatat, &[(3, 0)], libc::ENOENT);
        refused("this machine has no IPv6");
    }

    /// WSL1, and Linux before 3.9.
    pub(super) fn wsl1() {
        answer_option(libc::SO_REUSEPORT, libc::ENOPROTOOPT);
        let support = support();
        assert!(
            !support.shares && !support.spreads && !support.steers && !support.dual_stack,
            "{support:?}"
        );
        let error = Std::listen("127.0.0.1:80").unwrap_err();
        assert_eq!(
            util::ours(&error),
            "cannot share 127.0.0.1:80: this kernel cannot share a port"
        );
        let kernel = || Options::new().spread(Spread::Kernel);
        let errors = [
            Std::listen("127.0.0.1:0").map(drop),
            Std::listen_packet("127.0.0.1:0").map(drop),
            Std::listen_packet("127.0.0.1:80").map(drop),
            kernel().group("127.0.0.1:0", 2).map(drop),
            kernel().packet_group("127.0.0.1:0", 2).map(drop),
            kernel().join(true).group("127.0.0.1:0", 2).map(drop),
            Options::new()
                .dial_blocking("127.0.0.1:0", ([127, 0, 0, 1], 9).into())
                .map(drop),
        ];
        for error in errors.map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(
                error
                    .to_string()
                    .contains("this kernel cannot share a port"),
                "{error}"
            );
        }
        // What needs no sharing works, and a group with one queue needs none.
        let group = Options::new().group("127.0.0.1:0", 2).unwrap();
        assert_eq!((group.len(), group.spread()), (2, Spread::Queue));
        let error = Options::new().group(group.local_addr(), 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        Std::adopt(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    }

    /// Linux before 4.5 and 4.6, and emulators of other processors.
    pub(super) fn before_programs() {
        answer_option(libc::SO_ATTACH_REUSEPORT_CBPF, libc::ENOPROTOOPT);
        let support = support();
        assert!(
            support.shares && support.spreads && !support.steers,
            "{support:?}"
        );
        steering_is_refused();
        groups_are_new();
    }

    /// gVisor: it takes every program and runs none.
    pub(super) fn ignores_programs() {
        answer_option(libc::SO_ATTACH_REUSEPORT_CBPF, 0);
        let support = support();
        assert!(
            support.shares && support.spreads && !support.steers,
            "{support:?}"
        );
        steering_is_refused();
        groups_are_new();
    }

    /// Linux before 5.3 keeps the program, which leaves everything to the hash.
    pub(super) fn before_detaching() {
        answer_option(libc::SO_DETACH_REUSEPORT_BPF, libc::ENOPROTOOPT);
        assert!(support().steers);
        let weights = Steering::Weights(vec![0, 1]);
        let group = Options::new()
            .steering(weights)
            .group("127.0.0.1:0", 2)
            .unwrap();
        group.steer(&Steering::Hash).unwrap();
        groups_are_new();
    }

    /// Never a silence: what would do nothing is refused, and the hash is what there is.
    fn steering_is_refused() {
        let group = Options::new()
            .steering(Steering::Hash)
            .group("127.0.0.1:0", 2)
            .unwrap();
        group.steer(&Steering::Hash).unwrap();
        let error = group.steer(&Steering::Weights(vec![0, 1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let sentence = format!(
            "cannot steer the group on {}: this kernel takes no programs for groups",
            group.local_addr()
        );
        assert_eq!(error.to_string(), sentence);
    }

    /// New where nobody is, and refused where somebody is, whatever the kernel knows.
    fn groups_are_new() {
        for addr in ["127.0.0.1:0", "[::1]:0", ":0"] {
            let group = Options::new().group(addr, 3).unwrap();
            for member in &group {
                assert!(has_option(member, libc::SOL_SOCKET, libc::SO_REUSEPORT));
            }
            let addr = group.local_addr();
            let error = Options::new().group(addr, 2).unwrap_err();
            assert_eq!(error.holder(), Some(Holder::Group), "{error}");
            Std::listen(addr).unwrap();
            let _clients: Vec<_> = (0..64)
                .map(|_| {
                    std::net::TcpStream::connect((
                        if addr.is_ipv4() { "127.0.0.1" } else { "::1" },
                        addr.port(),
                    ))
                    .unwrap()
                })
                .collect();
            for member in &group {
                socket2::SockRef::from(member)
                    .set_nonblocking(true)
                    .unwrap();
                util::until(|| socket2::SockRef::from(member).accept().ok());
            }

            let sockets = Options::new().packet_group(addr, 3).unwrap();
            let error = Options::new().packet_group(addr, 2).unwrap_err();
            assert_eq!(error.holder(), Some(Holder::Group), "{error}");
            drop(sockets);
            let alone = Std::listen_packet(
                addr.ip()
                    .to_string()
                    .parse()
                    .map(|ip: std::net::IpAddr| (ip, 0))
                    .unwrap(),
            )
            .unwrap();
            Std::listen_packet(addr_of(&alone)).unwrap();
        }
    }
}
