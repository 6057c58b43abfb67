#![allow(clippy::unwrap_used)]
use super::*;
use crate::section;
use crate::values::Size;

section! {
    /// Walls of a garden.
    struct Walls {
        /// Most bricks of a wall, from 1 to 100.
        bricks: u32 = 10;
        /// The largest door.
        door: Size = Size::kib(1);
    }
}

impl Settings for Walls {
    fn check(&self) -> Result<(), Wrong> {
        match self.bricks {
            1..=100 => Ok(()),
            _ => Err(Wrong {
                option: "bricks",
                reason: "must be from 1 to 100".to_owned(),
            }),
        }
    }
}

fn types() -> [ModuleType; 3] {
    let module = |name, required, settings| ModuleType {
        name,
        required,
        settings,
    };
    [
        module("walls", false, Some(SettingsType::of::<Walls>())),
        module("ground", true, None),
        module("pond", false, None),
    ]
}

fn read(text: &str) -> Config {
    Config::read(&types(), text).unwrap()
}

fn error(text: &str) -> String {
    Config::read(&types(), text).unwrap_err().to_string()
}

fn walls(config: &Config, domain: &str) -> (u32, usize) {
    let value = config.modules.at()[domain].settings("walls").unwrap();
    let walls = value.get::<Walls>().unwrap();
    (walls.bricks, *walls.door)
}

const HOSTS: &str = "[modules.walls]\nbricks = 20\n[modules]\ndisabled = [\"pond\"]\n\
    [[host]]\ndomain = \"a.test\"\n\
    [[host]]\ndomain = \"b.test\"\n[host.modules]\ndisabled = []\n[host.modules.walls]\ndoor = \"2KiB\"\n\
    [[rooms]]\ndomain = \"conference.b.test\"\n[rooms.modules.walls]\nbricks = 30\n\
    [[rooms]]\ndomain = \"lobby.test\"\n[rooms.modules]\ndisabled = [\"walls\"]\n";

#[test]
fn a_setting_of_a_domain_comes_before_that_of_its_host_and_that_of_all_domains() {
    let config = read(HOSTS);
    assert_eq!(walls(&config, "a.test"), (20, 1024));
    assert_eq!(walls(&config, "conference.a.test"), (20, 1024));
    assert_eq!(walls(&config, "b.test"), (20, 2048));
    assert_eq!(walls(&config, "conference.b.test"), (30, 2048));
    assert_eq!(walls(&config, "lobby.test"), (20, 1024));
    assert_eq!(walls(&read(""), "localhost"), (10, 1024));
}

#[test]
fn a_list_of_a_domain_takes_the_place_of_the_list_for_all_domains() {
    let config = read(HOSTS);
    let has = |domain: &str| {
        let at = &config.modules.at()[domain];
        (at.has("pond"), at.has("walls"))
    };
    assert_eq!(has("a.test"), (false, true));
    assert_eq!(has("b.test"), (true, true));
    assert_eq!(has("lobby.test"), (true, false));
}

#[test]
fn a_mistake_is_refused_with_the_option_and_the_remedy() {
    for (text, wanted) in [
        (
            "[modules.walls]\nbrick = 2",
            "unknown key `modules.walls.brick`; did you mean `modules.walls.bricks`?",
        ),
        (
            "[modules.wals]\nbricks = 2",
            "unknown key `modules.wals`; did you mean `modules.walls`?",
        ),
        (
            "[[host]]\ndomain = \"a.test\"\n[host.modules.walls]\nbrick = 2",
            "unknown key `host.modules.walls.brick`; did you mean `host.modules.walls.bricks`?",
        ),
        (
            "[modules.walls]\nbricks = \"many\"",
            "`modules.walls.bricks`: found string \"many\", expected a whole number",
        ),
        (
            "[modules.walls]\nbricks = 0",
            "`modules.walls.bricks`: must be from 1 to 100",
        ),
        (
            "[[host]]\ndomain = \"a.test\"\n[host.modules.walls]\nbricks = 101",
            "`host.modules.walls.bricks`: of \"a.test\": must be from 1 to 100",
        ),
        (
            "[modules]\ndisabled = [\"pnod\"]",
            "`modules.disabled`: \"pnod\" is no module; did you mean \"pond\"?",
        ),
        (
            "[modules]\ndisabled = [\"ground\"]",
            "`modules.disabled`: other parts of the server need \"ground\"; remove it from the list",
        ),
        (
            "[[rooms]]\ndomain = \"a.test\"\n[rooms.modules]\ndisabled = [\"ground\"]",
            "`rooms.modules.disabled`: of \"a.test\": other parts of the server need \"ground\"",
        ),
        ("modules = 7", "write a section `[modules]`"),
        (
            "[modules]\ndisabled = \"pond\"",
            "`modules.disabled`: found string",
        ),
    ] {
        let said = error(text);
        assert!(said.contains(wanted), "{text}: {said:?} is not {wanted:?}");
    }
}

#[test]
fn a_wrong_setting_for_all_domains_is_one_error() {
    let text = format!("{HOSTS}[[host]]\ndomain = \"c.test\"").replace("bricks = 20", "bricks = 0");
    assert_eq!(error(&text).lines().count(), 1, "{}", error(&text));
}

#[test]
fn the_environment_and_the_command_line_set_options_of_modules() {
    let name = "SESTINA__MODULES__WALLS__BRICKS".to_owned();
    let host = "SESTINA__HOST__0__MODULES__DISABLED".to_owned();
    let env = [(name, "7".to_owned()), (host, "pond,walls".to_owned())];
    let overrides = [
        "host.0.domain=a.test".to_owned(),
        "modules.walls.door=9".to_owned(),
    ];
    let config = Config::load(&types(), None, env, &overrides).unwrap();
    assert_eq!(walls(&config, "a.test"), (7, 9));
    let at = &config.modules.at()["a.test"];
    assert!(!at.has("pond") && !at.has("walls"));
    let single = "SESTINA_MODULES_WALLS_BRICKS".to_owned();
    let error = Config::load(&types(), None, [(single, "7".to_owned())], &[]).unwrap_err();
    let wanted = "SESTINA__MODULES__WALLS__BRICKS";
    assert!(error.to_string().contains(wanted), "{error}");
}

#[test]
fn the_shown_configuration_has_the_settings_of_modules_and_can_be_read_again() {
    let shown = read("").show();
    assert!(
        shown.contains("[modules.walls]\nbricks = 10\ndoor = \"1KiB\""),
        "{shown}"
    );
    let config = read(HOSTS);
    assert_eq!(read(&config.show()), config, "{}", config.show());
}

#[test]
fn the_page_describes_the_settings_of_a_module_once() {
    let page = crate::docs::docs(&types());
    for part in [
        "## `[modules.walls]`\n\nWalls of a garden.\n",
        "| `bricks` | integer | `10` | Most bricks of a wall, from 1 to 100.\
         <br>`SESTINA__MODULES__WALLS__BRICKS` |",
        "## `[host.modules]`",
        "`SESTINA__HOST__0__MODULES__DISABLED`",
    ] {
        assert_eq!(page.matches(part).count(), 1, "{part}\n{page}");
    }
    assert_eq!(page.matches("Most bricks").count(), 1);
}

#[test]
fn the_hash_sees_what_a_domain_has_and_not_how_it_is_written() {
    let hash = |text: &str| read(text).config_hash();
    let base = hash("");
    // Versions without modules in the configuration have the same hash.
    assert_eq!(base, Config::from_toml("").unwrap().config_hash());
    assert_eq!(hash("[modules.walls]\nbricks = 10\ndoor = 1024"), base);
    let host = "[[host]]\ndomain = \"localhost\"\n[host.modules";
    let (bricks, pond) = (
        "[modules.walls]\nbricks = 9",
        "[modules]\ndisabled = [\"pond\"]",
    );
    assert_ne!(hash(bricks), base);
    assert_ne!(hash(pond), base);
    assert_ne!(hash(pond), hash(bricks));
    assert_eq!(hash(bricks), hash(&format!("{host}.walls]\nbricks = 9")));
    assert_eq!(
        hash(pond),
        hash(&format!("{host}]\ndisabled = [\"pond\", \"pond\"]"))
    );
    let door = "[modules.walls]\ndoor = 2048";
    assert_eq!(hash(door), hash("[modules.walls]\ndoor = \"2KiB\""));
}
