/// Who holds an address that could not be shared.
///
/// ```no_run
/// # #[cfg(feature = "std")] {
/// use reuseport::{Holder, ReusePort, Std};
///
/// match Std::listen(":80").map_err(|error| error.holder()) {
///     Err(Some(Holder::User(uid))) => println!("ask user {uid}"),
///     Err(Some(Holder::NotSharing)) => println!("a server without SO_REUSEPORT is still running"),
///     _ => {}
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Holder {
    /// A socket that did not ask to share its port, or a connection that still uses it.
    NotSharing,
    /// A group of this user's own: asked for as new, or full.
    Group,
    /// Another user, by uid. A port is shared within one user only, root included.
    User(u32),
}
