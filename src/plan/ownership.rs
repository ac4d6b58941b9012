/// Whether the table of a cluster is to belong to its master, so that nobody else can change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Ownership {
    /// [`Owned`](Self::Owned) if the kernel can do that, else [`Shared`](Self::Shared).
    #[default]
    Auto,
    /// Only its master can change it, and `nft flush ruleset` leaves it out, while a master runs. Needs
    /// Linux 6.9.
    Owned,
    /// Whoever may change rules can change it. `nft flush ruleset` removes it; a small table beside
    /// it, which the flush leaves out (since Linux 5.12), then keeps established connections alive
    /// until the table is made anew.
    Shared,
}
