//! Values with units: `30s`, `64MiB`, `70%`, `13 USD/month`, `10.0.1.0/24`.

use std::{fmt, net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("y", 365 * 86_400_000)];
const BYTE_UNITS: [(&str, u64); 5] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// How long a text says, such as `30s`, `5m`, `7d`; the error is a hint for the reader.
pub fn duration(text: &str) -> Result<Duration, String> {
    let millis = scaled(text, &DURATION_UNITS, "30s, 5m, 2h or 7d")?;
    Ok(Duration::from_millis(millis))
}

/// How many bytes a text says, such as `64MiB`.
pub fn bytes(text: &str) -> Result<Bytes, String> {
    if let Some(head) = ["KB", "MB", "GB", "TB"].iter().find_map(|unit| text.strip_suffix(unit)) {
        let unit = text[head.len()..].replace('B', "iB");
        return Err(format!("units are powers of 1024 here: `{head}{unit}`"));
    }
    scaled(text, &BYTE_UNITS, "512KiB, 64MiB or 32GiB").map(Bytes)
}

fn scaled(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("write a whole number and its unit, such as {example}"));
    }
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    let factor = factor.ok_or_else(|| format!("the unit is one of {}", names.join(", ")))?;
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(|| "the number is too large".to_owned())
}

/// A duration in the largest unit that says it exactly.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let units = DURATION_UNITS[..5].iter().rev();
    let (unit, factor) = units.clone().find(|(_, factor)| millis != 0 && millis % factor == 0).unwrap_or(&("s", 1_000));
    format!("{}{unit}", millis / factor)
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = BYTE_UNITS
            .iter()
            .rev()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// An amount of money a month, in hundredths of its currency's unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    pub cents: u64,
    /// ISO 4217, such as `USD`.
    pub currency: String,
}

/// A price such as `13 USD/month` or `0.05 AUD/month`.
pub fn price(text: &str) -> Result<Price, String> {
    let wrong = || "write an amount, its currency and `/month`, such as `13 USD/month`".to_owned();
    let (amount, currency) = text.strip_suffix("/month").and_then(|t| t.split_once(' ')).ok_or_else(wrong)?;
    let (whole, cents) = amount.split_once('.').unwrap_or((amount, "00"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let code = currency.len() == 3 && currency.bytes().all(|b| b.is_ascii_uppercase());
    if !digits(whole) || !digits(cents) || cents.len() != 2 || !code {
        return Err(wrong());
    }
    let cents = whole
        .parse::<u64>()
        .ok()
        .and_then(|w| w.checked_mul(100)?.checked_add(cents.parse().ok()?))
        .ok_or_else(wrong)?;
    Ok(Price { cents, currency: currency.to_owned() })
}

/// Thousandths of a CPU, such as `500m`; the error is a hint for the reader.
pub fn cpu_millis(text: &str) -> Result<u32, String> {
    let hint = || "write CPUs as a whole number, or thousandths as \"500m\"".to_owned();
    let digits = text.strip_suffix('m').filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|t| t.parse().ok()).filter(|n| (1..=1_024_000).contains(n)).ok_or_else(hint)
}

/// A block of IPv4 addresses, such as `10.0.1.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    pub base: Ipv4Addr,
    /// Leading bits that all its addresses share, 0 to 32.
    pub prefix: u8,
}

/// A block of addresses; the error is a hint for the reader.
pub fn cidr(text: &str) -> Result<Cidr, String> {
    let wrong = || "write an IPv4 block such as 10.0.1.0/24".to_owned();
    let (base, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let base: Ipv4Addr = base.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(wrong)?;
    let block = Cidr { base, prefix };
    if block.first() != u32::from(base) {
        return Err(format!("the block begins at {}/{prefix}", Ipv4Addr::from(block.first())));
    }
    Ok(block)
}

impl Cidr {
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    fn first(self) -> u32 {
        u32::from(self.base) & self.mask()
    }

    fn last(self) -> u32 {
        self.first() | !self.mask()
    }

    /// Whether all of `other` lies in this block.
    pub fn holds(self, other: Self) -> bool {
        self.first() <= other.first() && other.last() <= self.last()
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.first() <= other.last() && other.first() <= self.last()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        cidr(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_shown() {
        for text in ["30s", "5m", "2h", "7d", "250ms", "0s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        assert_eq!(show_duration(duration("7y").unwrap()), "2555d");
        for text in ["64MiB", "32GiB", "1KiB", "7B", "0B"] {
            assert_eq!(bytes(text).unwrap().to_string(), text);
        }
        assert!(bytes("64MB").unwrap_err().contains("64MiB"));
        for text in ["", "s", "5", "5 minutes", "-5m", "5.5m", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(price("13 USD/month").unwrap().cents, 1300);
        assert_eq!(price("0.05 AUD/month").unwrap().cents, 5);
        assert!(price("13 dollars").is_err());
    }

    #[test]
    fn blocks_hold_and_overlap() {
        let block = |t| cidr(t).unwrap();
        assert!(block("10.0.0.0/16").holds(block("10.0.3.0/24")));
        assert!(!block("10.0.0.0/16").holds(block("10.1.0.0/24")));
        assert!(block("10.0.0.0/23").overlaps(block("10.0.1.0/24")));
        assert!(!block("10.0.0.0/24").overlaps(block("10.0.1.0/24")));
        assert!(block("0.0.0.0/0").holds(block("255.255.255.255/32")));
        assert!(cidr("10.0.1.5/24").unwrap_err().contains("10.0.1.0/24"));
        assert!(cidr("10.0.1.0/33").is_err());
    }
}
