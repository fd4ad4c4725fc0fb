"""Which arm is better, and how sure are we?"""
