//! The witnesses see what is in the kernel.

use netns_tests::{Case, Lab, Need};

const TABLE: &str = "table inet witness {
	chain pass {
		type filter hook input priority filter; policy accept;
		ct state established accept
	}
}
";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("nft_prints_what_it_loaded", nft_prints_what_it_loaded).needs(Need::Nft),
        Case::new("nft_checks_without_loading", nft_checks_without_loading).needs(Need::Nft),
        Case::new("conntrack_lists_connections", conntrack_lists_connections)
            .needs(Need::Nft)
            .needs(Need::Conntrack),
        #[cfg(feature = "rustables")]
        Case::new("rustables_reads_tables_chains_and_rules", rustables_reads).needs(Need::Nft),
    ]
}

fn nft_prints_what_it_loaded(lab: &Lab) {
    assert_eq!(lab.witness().ruleset(), "");
    lab.witness().load(TABLE);
    assert_eq!(lab.witness().ruleset(), TABLE);
}

fn nft_checks_without_loading(lab: &Lab) {
    assert_eq!(lab.witness().check(TABLE), Ok(()));
    assert!(lab.witness().check("table inet x { chain }").is_err());
    assert_eq!(lab.witness().ruleset(), "");
}

fn conntrack_lists_connections(lab: &Lab) {
    lab.witness().load(TABLE);
    let _greeter = lab.greeter(8080, 0);
    let report = Lab::load(8080, 4).connections(4).start(lab.client()).unwrap().wait();
    assert_eq!(report.answered(), 4, "{report}");
    let entries = lab.witness().conntrack(&["-p", "tcp", "--orig-port-dst", "8080"]);
    assert!(entries.contains("src=10.8.0.1 dst=10.9.0.1"), "{entries}");
}

#[cfg(feature = "rustables")]
fn rustables_reads(lab: &Lab) {
    use netns_tests::{SeenChain, SeenTable};

    assert_eq!(lab.witness().tables(), []);
    lab.witness().load(TABLE);
    // ct load, bitwise, cmp, immediate (verdict)
    let chain = SeenChain { name: "pass".to_owned(), is_base: true, rules: Ok(vec![4]) };
    let table = SeenTable { name: "witness".to_owned(), flags: 0, chains: vec![chain] };
    assert_eq!(lab.witness().tables(), [table]);
}
