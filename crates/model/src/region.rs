//! Labels of regions.

/// The region that a cloud pairs with this one; one that is in no pair gets a second label of its own. Never the region itself.
pub fn paired(region: Option<&str>) -> String {
    const PAIRS: [(&str, &str); 10] = [
        ("australiaeast", "australiasoutheast"),
        ("uaenorth", "uaecentral"),
        ("westeurope", "northeurope"),
        ("eastus", "westus"),
        ("eastus2", "centralus"),
        ("westus2", "westcentralus"),
        ("uksouth", "ukwest"),
        ("southeastasia", "eastasia"),
        ("japaneast", "japanwest"),
        ("francecentral", "francesouth"),
    ];
    let region = region.unwrap_or("local");
    let paired = PAIRS.iter().find_map(|(a, b)| match region {
        r if r == *a => Some((*b).to_owned()),
        r if r == *b => Some((*a).to_owned()),
        _ => None,
    });
    paired.unwrap_or_else(|| match region.strip_suffix("-secondary") {
        Some(first) => first.to_owned(),
        None => format!("{region}-secondary"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_leads_there_and_back() {
        for region in ["australiaeast", "australiasoutheast", "local", "moon", "uaenorth"] {
            let other = paired(Some(region));
            assert_ne!(other, region);
            assert_eq!(paired(Some(&other)), region);
        }
        assert_eq!(paired(None), "local-secondary");
    }
}
