"""How is a recommender asked over HTTP, by programs and by people?"""
