"""What finished experiments and encoders are like: their texts, their losses, their leaning to languages, their spaces."""
