use jiff::civil::Weekday;

use super::*;

#[test]
fn a_period_is_fourteen_days_from_a_monday_and_periods_never_overlap() {
    let mut date = jiff::civil::date(2023, 1, 1);
    let mut last = Period::of(date).unwrap();
    for _ in 0..1500 {
        let period = Period::of(date).unwrap();
        assert_eq!(period.start.weekday(), Weekday::Monday);
        assert!(period.contains(date) && period.days().len() == 14);
        assert!(period == last || period.start == last.end().saturating_add(1.days()));
        last = period;
        date = date.saturating_add(1.days());
    }
    assert_eq!(Period::of(jiff::civil::date(2024, 1, 14)).unwrap().start, jiff::civil::date(2024, 1, 1));
}

#[test]
fn hours_are_read_as_people_write_them_and_rounded_to_a_quarter() {
    for (text, quarters) in
        [("7.5", 30), ("7,5", 30), ("7:30", 30), ("7h30", 30), ("8h", 32), ("24", 96), ("0.2", 1), ("1.6", 6)]
    {
        assert_eq!(Quarters::parse(text), Ok(Quarters(quarters)), "{text}");
    }
    for bad in ["", "-1", "0", "0.1", "24.2", "25", "x", "1e3", "inf", "NaN", "7:75", "1.2.3", "99999999999"] {
        assert!(Quarters::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn impossible_times_and_dates_are_refused() {
    for (text, minutes) in [("9", 540), ("9:30", 570), ("0930", 570), ("09:30:00", 570), ("24:00", 1440)] {
        assert_eq!(Minutes::parse(text), Ok(Minutes(minutes)), "{text}");
    }
    for bad in ["24:01", "25:00", "9:60", "-1:00", "x", "", "12345"] {
        assert!(Minutes::parse(bad).is_err(), "{bad}");
    }
    for bad in ["2026-02-30", "2026-13-01", "1999-12-31", "22.11.2026", "", "2026-1-1", "+002026-01-01"] {
        assert!(date(bad).is_err(), "{bad}");
    }
    assert!(date("2028-02-29").is_ok());
}

fn input() -> EntryInput {
    EntryInput {
        project: "internal".into(),
        work_type: "DEV".into(),
        date: "2026-11-17".into(),
        hours: "7.5".into(),
        ..EntryInput::default()
    }
}

fn period() -> Period {
    Period::of(jiff::civil::date(2026, 11, 17)).unwrap()
}

#[test]
fn an_entry_keeps_the_rules_or_says_which_field_breaks_them() {
    assert_eq!(input().check(period()).unwrap().project, "INTERNAL");
    let broken = EntryInput { hours: "-1".into(), date: "2026-12-30".into(), project: "'; DROP".into(), ..input() };
    let errors = broken.check(period()).unwrap_err();
    assert!(["hours", "date", "project"].iter().all(|f| !errors.of(f).is_empty()), "{errors:?}");
    let long = EntryInput { notes: "x".repeat(NOTES + 1), ..input() };
    assert!(!long.check(period()).unwrap_err().of("notes").is_empty());
}

#[test]
fn hours_come_from_the_times_when_they_are_left_out() {
    let timed = EntryInput { hours: String::new(), start: "9:00".into(), end: "12:30".into(), ..input() };
    assert_eq!(timed.check(period()).unwrap().hours, Quarters(14));
    let longer = EntryInput { start: "9:00".into(), end: "12:30".into(), hours: "4".into(), ..input() };
    assert!(!longer.check(period()).unwrap_err().of("hours").is_empty());
    let with_break = EntryInput { start: "9:00".into(), end: "17:00".into(), hours: "7.5".into(), ..input() };
    assert!(with_break.check(period()).is_ok());
    let backwards = EntryInput { start: "17:00".into(), end: "9:00".into(), ..input() };
    assert!(!backwards.check(period()).unwrap_err().of("end").is_empty());
}

#[test]
fn a_sheet_goes_from_open_to_closed_and_only_the_right_person_moves_it() {
    let owner = Actor { owner: true, manager: false };
    let manager = Actor { owner: false, manager: true };
    let both = Actor { owner: true, manager: true };
    let stranger = Actor { owner: false, manager: false };
    assert_eq!(Status::Open.after(Action::Submit, owner), Some(Status::Submitted));
    assert_eq!(Status::Submitted.after(Action::Approve, manager), Some(Status::Approved));
    assert_eq!(Status::Approved.after(Action::Close, manager), Some(Status::Closed));
    assert_eq!(Status::Closed.after(Action::Reopen, manager), Some(Status::Open));
    assert_eq!(Status::Submitted.after(Action::Approve, both), None, "nobody approves their own");
    assert_eq!(Status::Open.after(Action::Approve, manager), None);
    for status in [Status::Open, Status::Submitted, Status::Approved, Status::Closed] {
        assert!(status.actions(stranger).is_empty());
        assert_eq!(Status::parse(status.as_str()), Some(status));
    }
}

#[test]
fn a_period_at_the_edge_of_the_century_is_whole_or_none() {
    let mut date = jiff::civil::date(1999, 12, 1);
    while date < jiff::civil::date(2000, 2, 1) {
        if let Some(period) = Period::of(date) {
            assert_eq!(Period::of(period.start), Some(period), "{date}");
            assert_eq!(Period::of(period.end()), Some(period), "{date}");
        }
        date = date.saturating_add(1.days());
    }
    assert_eq!(Period::of(jiff::civil::date(2000, 1, 1)), None, "it began in 1999");
    assert_eq!(Period::of(jiff::civil::date(2099, 12, 31)).map(|p| p.end().year()), None, "it ends in 2100");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,30}") {
        let _ = (Quarters::parse(&text), Minutes::parse(&text), date(&text), code(&text));
        let all = EntryInput { project: text.clone(), hours: text.clone(), date: text.clone(), start: text.clone(), end: text.clone(), notes: text.clone(), ..input() };
        let _ = all.check(period());
    }

    #[test]
    fn what_is_accepted_stays_within_a_day_and_reads_back(n in 1..=96_i32) {
        proptest::prop_assert_eq!(Quarters::parse(&Quarters(n).to_string()), Ok(Quarters(n)));
    }

    #[test]
    fn every_date_has_exactly_one_period(days in 14..36_000_i32) {
        let date = jiff::civil::date(2000, 1, 1).saturating_add(days.days());
        let period = Period::of(date).unwrap();
        proptest::prop_assert!(period.contains(date));
        proptest::prop_assert_eq!(Period::of(period.start).unwrap(), period);
        proptest::prop_assert_eq!(Period::of(period.end()).unwrap(), period);
    }
}
