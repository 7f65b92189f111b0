"""What an operator can do about a saga that cannot end by itself, and what would come of it.

`operator.Operator` is the way in, for the command line as for a console. A verb is a value
(`verbs`); what it writes is decided from the saga as it was read (`deciding`), refused where it
could contradict what still runs (`refusals`), shown before it is done (`previews`) and written by
compare-and-set.
"""
