"""Run control: pause, resume, checkpoint, drain, schedules, each with an audit line."""
