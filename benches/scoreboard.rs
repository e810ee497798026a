//! Scoreboard topics with the games of the World Cup 2026.

use bytes::Bytes;
use pushonce_core::{ContentType, Message, Position, Timestamp};
use serde_json::{Value, json};

const DATA: &str = include_str!("../crates/demo/data/worldcup-2026.json");

/// The interval at which the clock updates the board, in minutes of play.
const CLOCK_MINUTES: u64 = 5;

/// Two topics: one game of about 300 bytes per message, and a board of all games of the group stage of about
/// 14 KiB, of which one line changes at a time.
pub fn topics() -> [(&'static str, Vec<Message>); 2] {
    let data: Value = serde_json::from_str(DATA).unwrap();
    let matches = &data["matches"].as_array().unwrap()[..72];
    let games: Vec<Vec<Value>> = matches.iter().map(game).collect();
    // The game with the most states.
    let longest = games.iter().max_by_key(|states| states.len()).unwrap();
    let mut board: Vec<Value> = games.iter().map(|states| states[0].clone()).collect();
    let mut boards = Vec::new();
    for (number, states) in games.iter().take(8).enumerate() {
        for state in states {
            board[number] = state.clone();
            boards.push(Value::Array(board.clone()));
        }
    }
    [("game", messages(longest)), ("board", messages(&boards))]
}

fn messages(payloads: &[Value]) -> Vec<Message> {
    let message = |(payload, offset)| Message {
        position: Position::new(12, offset),
        time: Timestamp(1_790_000_000_000 + 1_000 * offset),
        content_type: ContentType::Json,
        key: None,
        payload: Bytes::from(serde_json::to_vec(payload).unwrap()),
    };
    payloads.iter().zip(1..).map(message).collect()
}

/// The states of a game: one per goal, and clock updates in between.
fn game(game: &Value) -> Vec<Value> {
    let goals = |team: u64| {
        let goals = game[format!("goals{team}")].as_array().cloned().unwrap_or_default();
        goals.into_iter().map(move |goal| {
            let minute = goal["minute"].as_str().unwrap().to_owned();
            let begin: String = minute.chars().take_while(char::is_ascii_digit).collect();
            (begin.parse::<u64>().unwrap(), Some((team, minute, goal["name"].clone())))
        })
    };
    let clock = (0..=90).step_by(CLOCK_MINUTES as usize).map(|minute| (minute, None));
    let mut events: Vec<_> = goals(1).chain(goals(2)).chain(clock).collect();
    events.sort_by_key(|(minute, _)| *minute);
    let (mut score, mut scorers) = ([0, 0], Vec::new());
    let state = |(minute, goal): (u64, Option<(u64, String, Value)>)| {
        if let Some((team, minute, name)) = goal {
            score[team as usize - 1] += 1;
            scorers.push(json!({ "team": team, "name": name, "minute": minute }));
        }
        json!({
            "round": game["round"],
            "group": game["group"],
            "ground": game["ground"],
            "teams": [game["team1"], game["team2"]],
            "score": score,
            "minute": minute,
            "goals": scorers,
        })
    };
    events.into_iter().map(state).collect()
}
